"""The gate's exact part on many files that differ in little: what was run once on the same numbers is not run again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from good_files import HEIGHT, Good
from numpy.typing import NDArray
from onnx import ModelProto
from small_network import small_batches

from qvggt.export import parity, segments
from qvggt.export.emulation import run_cut, run_model
from qvggt.export.parity import check_convs, check_linears
from qvggt.export.segments import check_segments

FRAMES = (1, 2, 6)


@dataclass(frozen=True)
class Finding:
    """A part that differs: `path` names its module, `times` how often its error is what is allowed."""

    path: str
    kind: str
    times: float

    def __str__(self) -> str:
        return f"{self.kind} {self.path} {self.times:.3g}x"


def findings(good: Good, file: Path, frames: tuple[int, ...] = FRAMES) -> list[Finding]:
    """What the gate says of a file against the reference of a good one, worst first."""
    images = small_batches(max(frames), seed=5)[0][..., :HEIGHT, :]
    report = check_segments(file, good.reference, images, frames, progress=False)
    found = [Finding(s.path, "segment", s.error / s.tolerance) for s in report.segments if not s]
    found += [Finding(node, "node", float("inf")) for node in report.left]
    few = images[:4]
    layers = check_linears(file, good.reference, few, progress=False, precision=good.kind.precision)
    layers += check_convs(file, good.reference, images[:1], progress=False)
    found += [Finding(p.path, "layer", p.error / p.tolerance) for p in layers if not p]
    return sorted(found, key=lambda f: -f.times)


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, a piece of a file with the same nodes, weights and input is run once."""
    known: dict[bytes, Any] = {}

    def once(run: Callable[[ModelProto, Any], Any], model: ModelProto, given: Any) -> Any:
        digest = hashlib.sha256(model.SerializeToString(deterministic=True))
        values: Mapping[str, NDArray[Any]] = given if isinstance(given, dict) else {"": given}
        for name, value in sorted(values.items()):
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
        key = digest.digest()
        if key not in known:
            known[key] = run(model, given)
        return known[key]

    with (
        mock.patch.object(segments, "run_model", lambda model, feeds: once(run_model, model, dict(feeds))),
        mock.patch.object(parity, "run_cut", lambda cut, x: once(lambda _, y: run_cut(cut, y), cut.model, x)),
    ):
        yield
