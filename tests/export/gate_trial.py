"""The gate's exact part on many files that differ in little: what was run once on the same numbers is not run again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
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

from qvggt.export import emulation, segments
from qvggt.export.emulation import run_segment
from qvggt.export.parity import MAX_TIES, check_convs, check_linears
from qvggt.export.segments import check_segments
from qvggt.jobs.gate import SEGMENT_FRAMES


@dataclass(frozen=True)
class Finding:
    """A part that differs: `path` names its module, `times` how often its error is what is allowed."""

    path: str
    kind: str
    times: float

    def __str__(self) -> str:
        return f"{self.kind} {self.path} {self.times:.3g}x"


def findings(good: Good, file: Path, frames: tuple[int, ...] = SEGMENT_FRAMES) -> list[Finding]:
    """What the gate says of a file against the reference of a good one, worst first."""
    images, precision = small_batches(max(frames), seed=5)[0][..., :HEIGHT, :], good.kind.precision
    report = check_segments(file, good.reference, images, frames, progress=False, precision=precision)
    found = [Finding(s.path, "segment", s.error / s.tolerance) for s in report.segments if not s]
    found += [Finding(node, "node", math.inf) for node in report.left]
    layers = check_linears(file, good.reference, images, progress=False, precision=precision)
    layers += check_convs(file, good.reference, images, progress=False)
    found += [
        Finding(p.path, "layer", max(p.error / p.tolerance, p.ties / p.tokens / MAX_TIES)) for p in layers if not p
    ]
    return sorted(found, key=lambda f: -f.times)


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, a piece of a file with the same nodes, weights and input is run once."""
    known: dict[bytes, NDArray[np.float32]] = {}

    def once(model: ModelProto, feed: Mapping[str, NDArray[np.float32]], wide: int | None = None) -> Any:
        digest = hashlib.sha256(repr(wide).encode() + model.SerializeToString(deterministic=True))
        for name, value in sorted(feed.items()):
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
        key = digest.digest()
        if key not in known:
            known[key] = run_segment(model, feed, wide)
        return known[key]

    with mock.patch.object(segments, "run_segment", once), mock.patch.object(emulation, "run_segment", once):
        yield
