"""A runner for whatever a path or name denotes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from qvggt.engines.registry import RunnerKind, RunnerOptions, kind_of
from qvggt.engines.runner import Runner
from qvggt.errors import QvggtError
from qvggt.lazy import function

HARMLESS = ("runtime", "threads", "offline")  # one setting for a list of candidates of several kinds


def open_runner(source: str | Path, options: RunnerOptions | None = None, **changes: Any) -> Runner:
    """A runner for an .onnx file, an .engine or .plan file, a checkpoint or name of one, or what was registered.

    `changes` replace fields of `options`. QvggtError for an option the source has no use for, as none is ignored, and
    whatever the runners raise.
    """
    options = dataclasses.replace(options or RunnerOptions(), **changes)
    kind = kind_of(source, options.runtime)
    _check_used(source, kind, options)
    options = dataclasses.replace(options, device=options.device or kind.device)
    runner: Runner = function(kind.opener)(source, options)
    return runner


def _check_used(source: str | Path, kind: RunnerKind, options: RunnerOptions) -> None:
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value not in (None, False) and field.name not in (*kind.uses, *HARMLESS):
            raise QvggtError(f"{source}: {kind.name} has no use for {field.name} {value!r}; leave it out")
