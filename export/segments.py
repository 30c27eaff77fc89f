"""The gate's proof of everything in a file: each segment alone, on what the reference has at its beginning.

A file is cut at what its linears, convolutions and blocks are given and return (`qvggt.export.boundaries`). Each
segment is run by ONNX Runtime on the values that the reference has at its beginning, and must end in those that the
reference has at its end, to 1e-5 of the largest of them. Every node lies in a segment, and every value that a segment
is fed with is the end of another or an input of the file: together they prove the file. A segment that is a quantized
linear or convolution and nothing else is left to `qvggt.export.parity`, which knows of rounding ties.

What float noise moves by more than that (a sum that cancels to a thousandth of its terms; codes inside a segment, on
rounding ties) is compared with what a small change of the segment's own input moves (`Noise`).

In a half-precision file the tolerance is the same: segments are run without rounding to the half type, and the
reference with the constants as they are stored (`qvggt.export.emulation.stored`). Of constants that no layer holds
(embeddings, position maps of dense heads) one rounding is allowed. So this says nothing about where a half-precision
file rounds values; what that does end to end, `qvggt.export.parity` compares.

The passes are of different numbers of frames, and one of them is a probe in which tokens have all sizes down to 1e-4
(`watched`): an epsilon shows on small tokens only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qvggt.device import device_of
from qvggt.export.boundaries import Boundaries, watched
from qvggt.export.emulation import EXACT, Run, open_segment, stored
from qvggt.export.precision import Precision
from qvggt.files import line
from qvggt.models.network import Network
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.quantizer import quantizers
from qvggt.onnx_view.segment import Segment, cut_segments, segment_model, uncovered
from qvggt.progress import bar
from qvggt.quant.attention import QuantAttention

TOLERANCE = 1e-5  # of a segment's largest output
ROUNDING = 2.0**-23  # relative, of fp32

KEPT = 64 << 20  # bytes of segments that stay open

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Noise:
    """What float noise may do to a segment: so many `times` what a relative change of its input by `nudge` does, up to
    `limit` of its largest output."""

    nudge: float
    times: float
    limit: float


FLOAT_NOISE = Noise(ROUNDING, 8.0, 1e-3)  # one rounding of the input does about what the segment's own roundings do
CODE_NOISE = Noise(1e-5, 2.0, 0.05)  # of codes inside, which flip on ties: more of them than roundings alone flip


@dataclass(frozen=True)
class SegmentParity:
    """One segment in its worst pass.

    path: of the modules its nodes belong to. target: the tensor it ends in. error: largest difference, of the largest
    value the reference has there. frames, size (H, W), probe: of that pass. trouble: why it could not be run.
    """

    path: str
    target: str
    nodes: int
    error: float
    frames: int
    size: tuple[int, int]
    probe: bool = False
    tolerance: float = TOLERANCE
    trouble: str = ""

    def __bool__(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        place = f"{self.path} (its {self.nodes} nodes up to {self.target})"
        images = f"{self.frames} frames of {self.size[0]}x{self.size[1]}" + (", small tokens" if self.probe else "")
        found = self.trouble or f"relative error {self.error:.2e} > {self.tolerance:.0e}"
        return f"{place}: {found} ({images})"


@dataclass(frozen=True)
class SegmentReport:
    """segments: of all files. layers: segments that are one quantized layer and left to the check of those. nodes: of
    the files. left: those in no segment, or in one that the reference has no values for. frames: of the passes.
    constants: where an epsilon of a norm or a scale inside attention is not the reference's, a line each."""

    segments: tuple[SegmentParity, ...] = ()
    layers: int = 0
    nodes: int = 0
    left: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()
    constants: tuple[str, ...] = ()

    def __add__(self, other: SegmentReport) -> SegmentReport:
        """Of two files of one network."""
        counts = self.layers + other.layers, self.nodes + other.nodes
        frames = tuple(sorted({*self.frames, *other.frames}))
        found = self.segments + other.segments, *counts, self.left + other.left
        return SegmentReport(*found, frames, self.constants + other.constants)

    @property
    def worst(self) -> SegmentParity | None:
        return max(self.segments, key=lambda s: s.error / s.tolerance, default=None)

    @property
    def failures(self) -> list[str]:
        """One line per segment that differs, worst first, and per node that is in none."""
        failed = sorted((s for s in self.segments if not s), key=lambda s: -s.error / s.tolerance)
        return [*map(str, failed), *self.constants, *(f"{name}: a node that no segment proves" for name in self.left)]


def check_segments(
    onnx_path: Path,
    reference: Network,
    images: Tensor,
    frames: Iterable[int],
    progress: bool = True,
    precision: Precision = Precision.FP32,
) -> SegmentReport:
    """Every segment of a file on so many of the images [S, 3, H, W], which have the file's size, and on a probe of the
    second number of them. precision: the float type of the network in the file."""
    file = open_onnx(onnx_path)
    bounds = Boundaries.of(file, reference)
    segments = cut_segments(file, bounds.tensors)
    alone = {(use.output, (use.input,)) for use in bounds.cores.values()}
    mine = [segment for segment in segments if (segment.target, segment.feeds) not in alone]
    counts = sorted({min(count, len(images)) for count in frames})
    passes = [(count, False) for count in counts] + [(counts[:2][-1], True)]
    worst: dict[str, SegmentParity] = {}
    pieces = _Pieces(file, precision)
    with bar(total=len(mine) * len(passes), desc="parity of segments", unit="segment", shown=progress) as moved:
        for count, probe in passes:
            for result in _Pass(pieces, bounds, mine, probe).results(reference, images[:count], moved.update):
                known = worst.get(result.target)
                if known is None or result.error / result.tolerance > known.error / known.tolerance:
                    worst[result.target] = result
    proven = (node for s in segments if s.target in worst or s not in mine for node in s.nodes)
    nodes = sum(1 for _ in file.nodes)
    found = tuple(worst.values()), len(segments) - len(mine), nodes, uncovered(file, proven)
    others = (*_other_epsilons(file, reference), *_other_scales(file, reference))
    return SegmentReport(*found, tuple(counts), others)


def _other_epsilons(file: Model, reference: Network) -> Iterator[str]:
    """Of a norm after a norm, no token shows it."""
    norms = {path: module.eps for path, module in reference.named_modules() if isinstance(module, nn.LayerNorm)}
    for node in file.scopes[0].nodes:
        expected = norms.get(file.metadata.module_of(node.label))
        if expected is None or not node.is_op("LayerNormalization"):
            continue
        found = node.real("epsilon", 1e-5)
        if abs(found - expected) > ROUNDING * expected:
            yield f"{node.label}: epsilon {found:.3g}, the reference has {expected:.3g}"


def _other_scales(file: Model, reference: Network) -> Iterator[str]:
    """Of codes inside attention: a coarser scale moves its output no more than flipped codes may."""
    expected = {
        path: [*module.scales.tolist(), module.format.probability_scale]
        for path, module in reference.named_modules()
        if isinstance(module, QuantAttention)
    }
    for quantizes in (True, False):
        seen: Counter[str] = Counter()
        for quantizer in quantizers(file):
            place = file.metadata.module_of(quantizer.label)
            if place not in expected or quantizer.quantizes is not quantizes:
                continue
            wanted = expected[place][seen[place] % len(expected[place])]
            seen[place] += 1
            found = quantizer.scope.value(quantizer.scale)
            if found is None or found.size != 1 or float(found.reshape(())) != wanted:
                yield f"{quantizer.label}: its scale is not the reference's {wanted:.3g}"


class _Pieces:
    """Segments of a file in ONNX Runtime. Small ones stay open for the next pass, which costs less than opening."""

    def __init__(self, file: Model, precision: Precision) -> None:
        self.file, self.precision = file, precision
        self.wide = None if precision is Precision.FP32 else precision.onnx
        self._kept: dict[str, Run] = {}
        self._bytes = 0

    def open(self, segment: Segment, ranks: Mapping[str, int]) -> Run:
        """ranks: of its feeds."""
        if (known := self._kept.get(segment.target)) is not None:
            return known
        feeds = {name: self._dims(name, rank) for name, rank in ranks.items()}
        model = segment_model(self.file, segment.nodes, feeds, segment.target)
        run, size = open_segment(model, self.wide), model.ByteSize()
        if self._bytes + size <= KEPT:
            self._kept[segment.target] = run
            self._bytes += size
        return run

    def _dims(self, name: str, rank: int) -> list[int | str]:
        shape = self.file.scopes[0].shape(name) or (None,) * rank
        return [f"{name}.{axis}" if side is None else side for axis, side in enumerate(shape)]


class _Pass:
    """One pass of the reference. A segment is run as soon as all of its tensors have been seen, and a tensor is held
    until the last segment that it belongs to: few are in memory at a time."""

    def __init__(self, pieces: _Pieces, bounds: Boundaries, segments: list[Segment], probe: bool) -> None:
        self.pieces, self.file, self.precision = pieces, pieces.file, pieces.precision
        self.bounds, self.probe = bounds, probe
        self.made: dict[str, Values] = {}
        self.passed: dict[str, Values] = {}
        self.pending: dict[str, list[Segment]] = defaultdict(list)  # those that a tensor belongs to
        self.waits: dict[str, set[str]] = {}  # target -> tensors it waits for
        for segment in segments:
            self.waits[segment.target] = {segment.target, *segment.feeds}
            for name in self.waits[segment.target]:
                self.pending[name].append(segment)
        self.found: list[SegmentParity] = []
        self.shape: tuple[int, ...] = ()
        self.tell: Callable[[int], object] = lambda _: None

    def results(self, reference: Network, images: Tensor, tell: Callable[[int], object]) -> list[SegmentParity]:
        self.shape, self.tell = tuple(images.shape), tell
        images = images.to(device_of(reference))
        self.see("images", images, images)
        alike = stored(reference, self.precision)
        with torch.no_grad(), alike, watched(self.bounds, reference, self.see, self.probe):
            outputs = reference(images)
        for name, value in outputs.items():
            self.see(name, value, value)
        return self.found

    def see(self, name: str, made: Tensor, passed: Tensor) -> None:
        """A tensor of the file is there: what the reference makes in its place, and what it passes on."""
        if name in self.made or name not in self.pending:
            return
        self.made[name] = self._as_in_file(name, made)
        self.passed[name] = self.made[name] if passed is made else self._as_in_file(name, passed)
        for segment in list(self.pending[name]):
            self.waits[segment.target].discard(name)
            if not self.waits[segment.target]:
                self._run(segment)

    def _as_in_file(self, name: str, value: Tensor) -> Values:
        shape, array = self.file.scopes[0].shape(name), value.detach().float().cpu().numpy()
        if shape is None or shape.count(None) > 1:
            return array
        known = prod(side for side in shape if side is not None)
        if array.size % max(known, 1) or (None not in shape and array.size != known):
            return array  # not what the file has there: the segment will say so
        return np.ascontiguousarray(array.reshape([-1 if side is None else side for side in shape]))

    def _run(self, segment: Segment) -> None:
        feeds = {name: self.passed[name] for name in segment.feeds}
        self.found.append(self._compare(segment, feeds, self.made[segment.target]))
        self.tell(1)
        for name in {segment.target, *segment.feeds}:
            self.pending[name].remove(segment)
            if not self.pending[name]:
                del self.made[name], self.passed[name]

    def _compare(self, segment: Segment, feeds: Mapping[str, Values], expected: Values) -> SegmentParity:
        frames, _, height, width = self.shape
        parity = partial(SegmentParity, segment.path, segment.target, len(segment.nodes))
        try:
            run = self.pieces.open(segment, {name: value.ndim for name, value in feeds.items()})
            got = run(feeds)
        except Exception as trouble:  # whatever ONNX Runtime throws at a piece that makes no sense
            return parity(float("inf"), frames, (height, width), self.probe, trouble=line(trouble))
        error, tolerance = relative(got, expected, self._allowed(segment, expected)), TOLERANCE
        if any(node.op == "Resize" for node in segment.nodes):  # places between pixels, rounded: of such neighbours
            tolerance = max(tolerance, ROUNDING * max(height, width))
        noise = CODE_NOISE if any(node.op == "QuantizeLinear" for node in segment.nodes) else FLOAT_NOISE
        if TOLERANCE < error < noise.limit:
            moved = run({name: nudged(value, noise.nudge) for name, value in feeds.items()})
            tolerance = max(tolerance, noise.times * relative(moved, got))
        return parity(error, frames, (height, width), self.probe, tolerance)

    def _allowed(self, segment: Segment, expected: Values) -> Values | float:
        """In a half-precision file, one rounding of the constants that no layer holds: of embeddings, which are passed
        on as they are stored, and of position maps, which are added."""
        if self.precision is Precision.FP32:
            return 0.0
        constants, epsilon, allowed = self.file.scopes[0].initializers, self.precision.epsilon, np.float32(0)
        wide = self.pieces.wide
        for node in segment.nodes:
            halves = [t for name in node.inputs if (t := constants.get(name)) and t.data_type == wide]
            if node.index in self.bounds.layers or not halves:
                continue
            if node.op == "Add":
                values = [self.file.values.array(tensor) for tensor in halves]
                allowed = allowed + sum(float(np.abs(v).max()) for v in values if v is not None) * epsilon
            elif node.op in EXACT:
                allowed = allowed + np.abs(expected) * epsilon
        return allowed


def relative(got: Values, expected: Values, allowed: Values | float = 0.0) -> float:
    """Largest difference, of the largest expected value; inf where a value or the shape is none. allowed: what is taken
    off each difference before."""
    if got.size != expected.size:
        return float("inf")
    error = float((np.abs(got.reshape(expected.shape) - expected) - allowed).max(initial=0.0))
    return error / max(float(np.abs(expected).max(initial=0.0)), 1e-30) if np.isfinite(error) else float("inf")


def nudged(x: Values, by: float) -> Values:
    """Every value larger or smaller by this share of it, at random."""
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), x.shape)
    return x * (1 + np.float32(by) * signs)
