"""A runner for whatever a path or name denotes."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

from qvggt.engines.registry import RunnerKind, RunnerOptions, kind_of, shown, split_files
from qvggt.engines.runner import Runner
from qvggt.errors import QvggtError
from qvggt.lazy import function

if TYPE_CHECKING:
    from qvggt.engines.registry import Source

HARMLESS = ("runtime", "threads", "offline")  # one setting for a list of candidates of several kinds


def open_runner(source: Source, options: RunnerOptions | None = None, **changes: Any) -> Runner:
    """A runner for an .onnx file, an .engine or .plan file, a checkpoint or name of one, a model in memory, or what was
    registered; and one for FILE,FILE,... (see `split_files`).

    `changes` replace fields of `options`. QvggtError for an option the source has no use for, as none is ignored, and
    whatever the runners raise.
    """
    options = dataclasses.replace(options or RunnerOptions(), **changes)
    if len(files := split_files(source)) > 1:
        from qvggt.engines.sizes_runner import open_sizes

        return open_sizes([partial(open_runner, file, options) for file in files])
    kind = kind_of(source, options.runtime)
    _check_used(source, kind, options)
    options = dataclasses.replace(options, device=options.device or kind.device)
    runner: Runner = function(kind.opener)(source, options)
    return runner


def _check_used(source: Source, kind: RunnerKind, options: RunnerOptions) -> None:
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is not None and value is not False and field.name not in (*kind.uses, *HARMLESS):
            raise QvggtError(f"{shown(source)}: {kind.name} has no use for {field.name} {value!r}; leave it out")
