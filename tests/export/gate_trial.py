"""The gate's exact part on many files that differ in little: what was run once on the same numbers is not run again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from faults import FAULTS, Broken, Fault
from good_files import Good
from numpy.typing import NDArray
from onnx import ModelProto

from qvggt.export import emulation, segments
from qvggt.export.emulation import Run, open_segment
from qvggt.export.parity import MAX_TIES, LayerParity, check_convs, check_linears
from qvggt.export.segments import SegmentReport, check_segments
from qvggt.jobs.gate import SEGMENT_FRAMES, _promised


@dataclass(frozen=True)
class Finding:
    """A part that differs: `path` names its module, `times` how often its error is what is allowed."""

    path: str
    kind: str
    times: float


@dataclass(frozen=True)
class Examined:
    """All that was compared."""

    segments: SegmentReport
    layers: tuple[LayerParity, ...]
    missing: tuple[str, ...] = ()

    @property
    def findings(self) -> list[Finding]:
        """What differs, worst first."""
        found = [Finding(s.path, "segment", s.error / s.tolerance) for s in self.segments.segments if not s]
        found += [Finding(node, "node", math.inf) for node in self.segments.left]
        found += [Finding(line.partition(": ")[0], "constant", math.inf) for line in self.segments.constants]
        found += [Finding(name, "missing", math.inf) for name in self.missing]
        found += [Finding(p.path, "layer", times(p)) for p in self.layers if not p]
        return sorted(found, key=lambda f: -f.times)


def times(p: LayerParity) -> float:
    """How often a layer's error, or its share of ties, is what is allowed."""
    return max(p.error / p.tolerance, p.ties / p.tokens / MAX_TIES)


def examine(good: Good, file: Path | None = None, frames: tuple[int, ...] = SEGMENT_FRAMES, seed: int = 5) -> Examined:
    """What the gate compares exactly, of a good file or of another against the same reference."""
    file, images, precision = file or good.path, good.images(max(frames), seed), good.kind.precision
    segments = check_segments(file, good.reference, images, frames, progress=False, precision=precision)
    linears = check_linears(file, good.reference, images, progress=False, precision=precision)
    layers = linears + check_convs(file, good.reference, images, progress=False)
    given = [value.name for value in onnx.load(file).graph.output]
    return Examined(segments, layers, tuple(_promised(file, good.reference, given)))


def examine_broken(good: Good, broken: Broken, frames: tuple[int, ...] = SEGMENT_FRAMES) -> list[Finding]:
    """What the gate finds in a broken copy of a good file, written beside it."""
    path = good.path.with_suffix(".broken.onnx")
    path.write_bytes(broken.model.SerializeToString())
    try:
        return examine(good, path, frames).findings
    except Exception as error:  # ONNX Runtime's too: no file passes this way, but nobody is told where it is broken
        return [Finding("", f"{type(error).__name__}: {error}", math.inf)]


def trials(
    goods: Mapping[str, Good], faults: Iterable[Fault] = tuple(FAULTS.values()), thorough: bool = False
) -> Iterator[tuple[str, Fault, Broken]]:
    """(name of a good file, fault, its broken copy): every fault in one of the files that it applies to, each file in
    its turn; or `thorough`, in all of them."""
    models = {name: onnx.load(good.path) for name, good in goods.items()}
    for turn, fault in enumerate(faults):
        names = list(models)[turn % len(models) :] + list(models)[: turn % len(models)]
        made = ((name, fault, broken) for name in names if (broken := fault(models[name])) is not None)
        yield from made if thorough else islice(made, 1)


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, a piece of a file with the same nodes, weights and input is run once."""
    known: dict[bytes, NDArray[np.float32]] = {}

    def opened(model: ModelProto, wide: int | None = None) -> Run:
        piece = hashlib.sha256(repr(wide).encode() + model.SerializeToString(deterministic=True))

        def run(feed: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
            digest = piece.copy()
            for name, value in sorted(feed.items()):
                digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
            key = digest.digest()
            if key not in known:
                known[key] = open_segment(model, wide)(feed)
            return known[key]

        return run

    with mock.patch.object(segments, "open_segment", opened), mock.patch.object(emulation, "open_segment", opened):
        yield
