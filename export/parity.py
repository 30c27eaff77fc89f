"""The parity gate's checks of layers and of outputs: what ONNX Runtime computes from the file against the PyTorch
fake-quant reference. What lies between the layers is proven by `qvggt.export.segments`.

(a) Every quantized linear and convolution alone, fed what it sees in the reference in each of its calls, must agree to
float rounding; a linear on tokens of small sizes too, where the floor of a token's range shows. The one exception is a
value that sits on a rounding tie, where one ulp of difference moves a code by one: tokens that differ and hold such a
value are counted apart. (b) The whole network, per output, as SQNR and largest error: float noise between the two
implementations flips the odd rounding, and one flipped code moves every later value of its token, so that a few flips
end at the level of the quantization noise itself. (b) therefore passes at a floor in dB, or when the file differs from
the reference by up to 6 dB more than the reference differs from itself after a relative change of 1e-5 in its input,
which is 400 times less than one grey level of an 8-bit image.

A half-precision file is held to the fp32 reference too. (a) is done twice: as the file rounds, where two roundings of
the product are allowed (an online rotation rounds values before they are quantized, so such a linear is compared with
the reference that rounds at the same place), and without rounding anything but the constants, to 1e-5.
(b) takes as the reference's own noise what rounding its weights and module outputs to the half type does. The camera
accuracy (`qvggt.jobs.gate`) may move by chance: it fails when the paired-bootstrap interval of the change excludes 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from qvggt.device import device_of
from qvggt.export.emulation import open_segment, round_output, rounding, stored
from qvggt.export.precision import Precision
from qvggt.formats.table import find_format
from qvggt.hooks import hooked
from qvggt.models.family import family_of
from qvggt.models.network import Network
from qvggt.onnx_view.cut import Cut, calls_in, cut_linear, expected_in
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.segment import HALF
from qvggt.progress import bar
from qvggt.quant.conv import QuantConv2d
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import quantized_convs, quantized_linears
from qvggt.quant.scheme import Scheme
from qvggt.quant.transform import InputTransform
from qvggt.sqnr import decibels

LINEAR_TOLERANCE = 1e-5  # of the largest output
TIE_WIDTH = 1e-4  # distance from where a code changes, in units of the scale, that float rounding may cross
MAX_TIES = 0.05  # of the tokens: more than that is no accident
MAX_ROWS = 4096  # tokens per linear: enough to see every failure, bounded at 1B scale
SMALL_TOKENS = 8  # of a linear's, which are also tried at small sizes
SMALL_SHARE = (
    0.1  # of the largest bias, below which what a token adds to it is lost: eight fp32 roundings are 1e-5 of it
)
HALF_OUTPUT = 0.07  # steps that fp16 may move the value of the largest code of a convolution
HALF_TIE_WIDTH = 0.25  # of its output steps: 2^-11 of a sum that fills its 8-bit grid, four times over
NUDGE = 1e-5  # relative change of the input that stands for float noise
SELF_MARGIN_DB = 6.0  # two realisations of the same noise, and their spread over a few sequences
TYPES = {p.onnx: p for p in Precision}


@dataclass(frozen=True)
class LayerParity:
    """One layer: tokens compared, tokens that differ on a rounding tie, largest relative error of all others."""

    path: str
    error: float
    tokens: int
    ties: int
    tolerance: float = LINEAR_TOLERANCE

    def __bool__(self) -> bool:
        return self.error <= self.tolerance and self.ties <= MAX_TIES * self.tokens

    def joined(self, other: LayerParity) -> LayerParity:
        """Two comparisons of one layer as one: the worse error, all tokens."""
        worse = max(self, other, key=lambda p: p.error / p.tolerance)
        return replace(worse, tokens=self.tokens + other.tokens, ties=self.ties + other.ties)


@dataclass(frozen=True)
class OutputParity:
    """One network output at one frame count: SQNR in dB (inf when equal), largest absolute error.

    self_db: SQNR of the reference against itself on an input changed by 1e-5, its sensitivity to float noise; for a
    half-precision file, against itself with weights and module outputs rounded to that type.
    """

    name: str
    frames: int
    sqnr_db: float
    max_error: float
    floor_db: float
    self_db: float = math.inf

    @property
    def needed_db(self) -> float:
        """What passes: the format's floor, or SELF_MARGIN_DB below the reference's own noise where that is lower."""
        return min(self.floor_db, self.self_db - SELF_MARGIN_DB)

    def __bool__(self) -> bool:
        return self.sqnr_db >= self.needed_db

    @property
    def rule(self) -> str:
        """By which rule it passed, or what it missed."""
        if self.sqnr_db >= self.floor_db:
            return f"reaches the floor of {self.floor_db:.0f} dB"
        own = f"{SELF_MARGIN_DB:.0f} dB of the reference's own noise"
        return f"below the floor of {self.floor_db:.0f} dB, " + (f"within {own}" if self else f"not within {own}")


def failures(layers: Iterable[LayerParity], outputs: Iterable[OutputParity]) -> list[str]:
    """One line per failed check, worst first."""
    lines = [
        f"{p.path}: relative error {p.error:.2e} > {p.tolerance:.0e} ({p.tokens} tokens, {p.ties} on ties)"
        for p in sorted(layers, key=lambda p: -p.error / p.tolerance)
        if not p
    ]
    lines += [
        f"{p.name} with {p.frames} frames: SQNR {p.sqnr_db:.1f} dB < {p.needed_db:.1f} dB"
        for p in sorted(outputs, key=lambda p: p.sqnr_db)
        if not p
    ]
    return lines


def spread_rows(x: Tensor) -> Tensor:
    """At most MAX_ROWS of the tokens x [..., K], spread evenly: special ones and every frame are among them."""
    rows = x.detach().reshape(-1, x.shape[-1])
    return rows[:: -(-len(rows) // MAX_ROWS)]


def tie_rows(module: QuantLinear, x: Tensor) -> Tensor:
    """bool [rows]: tokens with a value closer than TIE_WIDTH scales to a rounding boundary inside the grid."""
    activation = module.format.activation
    if activation is None:
        return torch.zeros(len(x), dtype=torch.bool)
    if module.transform is not None:
        x = module.transform(x)
    return activation.near_boundary(x, module.act_ranges, TIE_WIDTH).any(-1)


def check_linears(
    onnx_path: Path,
    reference: Network,
    images: Tensor,
    progress: bool = True,
    precision: Precision = Precision.FP32,
) -> tuple[LayerParity, ...]:
    """Check (a) for every quantized linear in the file on inputs the reference's sees for images [S, 3, H, W].

    `precision` is the float type of the network in the file.
    """
    island = None if precision is Precision.FP32 else family_of(reference).island(precision.value)

    def compare(file: Model, path: str, call: int, module: QuantLinear, x: Tensor) -> LayerParity:
        cut = cut_linear(file, path, ("frames", "rows", None), call)
        rows = spread_rows(module.centered(x)).to(TYPES[cut.type].torch).float()
        if precision is Precision.FP32:
            return _compare_linear(path, module, rows, cut)
        own = Precision.FP32 if island is not None and island.match(path) else precision
        native = _compare_native(
            path, module, rows, _run(cut, _array(rows)[None], (len(rows), module.out_features)), own
        )
        return native.joined(_compare_linear(path, module, rows, cut, precision.onnx))

    with stored(reference, precision):
        return _check_layers(onnx_path, reference, images, quantized_linears(reference), compare, progress)


def check_convs(onnx_path: Path, reference: Network, images: Tensor, progress: bool = True) -> tuple[LayerParity, ...]:
    """Check (a) for every quantized convolution in the file, on the first two frames of images [S, 3, H, W].

    `tokens` counts output values. Both sides end on an 8-bit grid, so a value differs by whole steps or not at all:
    `ties` are those that differ by one step where the reference's value before rounding lies on the boundary (within
    `TIE_WIDTH` steps, `HALF_TIE_WIDTH` in an fp16 network).
    """
    return _check_layers(onnx_path, reference, images[:2], quantized_convs(reference), _compare_conv, progress)


def _check_layers(
    onnx_path: Path,
    reference: Network,
    images: Tensor,
    layers: Iterable[tuple[str, Any]],
    compare: Callable[[Model, str, int, Any, Tensor], LayerParity],
    progress: bool,
) -> tuple[LayerParity, ...]:
    """Each layer that the file has, in each of its calls there, on what that sees in one pass of the reference; one
    input is in memory at a time."""
    file = open_onnx(onnx_path)
    expected = {path: calls_in(file, path) or {0} for path, _ in layers if expected_in(file, path)}
    calls: Counter[str] = Counter()
    results: dict[str, LayerParity] = {}
    with bar(total=len(expected), desc="parity of layers", unit="layer", shown=progress) as moved:

        def check(path: str, module: nn.Module, x: Tensor) -> None:
            call, known = calls[path], results.get(path)
            calls[path] += 1
            if call in expected[path]:
                moved.update(known is None)
                result = compare(file, path, call, module, x)
                results[path] = result if known is None else known.joined(result)

        with torch.no_grad(), hooked(reference, expected, check):
            if expected:
                reference(images.to(device_of(reference)))
    return tuple(results[path] for path in expected)


def _compare_linear(path: str, module: QuantLinear, x: Tensor, cut: Cut, wide: int | None = None) -> LayerParity:
    """On tokens x [rows, K] and on small ones. wide: a half type that the linear is not to be rounded to."""
    count, tokens = len(x), torch.cat([x, small_rows(x)])
    tokens = torch.cat([tokens, tokens[: len(tokens) % 2]])
    expected, ties = _array(module.product(tokens)), _array(tie_rows(module, tokens))
    # as two frames: nodes that mix them are no linear
    got = _run(cut, _array(tokens).reshape(2, -1, tokens.shape[-1]), expected.shape, wide)
    errors = np.abs(got - expected).max(-1)
    largest = np.full(len(errors), max(float(np.abs(expected[:count]).max()), 1e-30))
    # of a small token what it adds to the bias is compared, of its own largest value
    bias = _array(module.product(torch.zeros_like(x[:1])))
    floor = SMALL_SHARE * float(np.abs(bias).max()) + 1e-30
    largest[count:] = np.maximum(np.abs(expected[count:] - bias).max(-1), floor)
    return verdict(path, errors / largest, ties, LINEAR_TOLERANCE)


def _run(cut: Cut, x: NDArray[np.float32], shape: tuple[int, ...], wide: int | None = None) -> NDArray[np.float32]:
    """What a layer of the file makes of x, in the shape it should have; NaN where it cannot be run or has another."""
    try:
        result = open_segment(cut.model, wide)({cut.input: x})
    except Exception:  # whatever ONNX Runtime throws at nodes that make no sense
        return np.full(shape, np.nan, np.float32)
    return result.reshape(shape) if result.size == prod(shape) else np.full(shape, np.nan, np.float32)


def small_rows(x: Tensor) -> Tensor:
    """A few of the tokens x [rows, K] brought to largest values of 0.1 to 1e-6, which is about the floor of a token's
    range, and one of zeros."""
    few = x[:: -(-len(x) // SMALL_TOKENS)]
    few = few / few.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    return torch.cat([*(few * 10.0**-power for power in range(1, 7)), torch.zeros_like(few[:1])])


def _compare_native(
    path: str, module: QuantLinear, x: Tensor, got: NDArray[np.float32], precision: Precision
) -> LayerParity:
    """As a half-precision file rounds. precision: of the network around the linear."""
    expected = _array(module.product(x))
    transform = module.transform
    inside = transform is not None and (transform.rotation is not None or transform.basis is not None)
    if transform is not None and inside and precision is not Precision.FP32:
        # values are rounded before they are quantized: the energy of that, not the largest error
        energy = max(float(np.square(expected, dtype=np.float64).sum()), 1e-30)
        own = _array(_transformed_half(module, transform, x, precision)) - expected
        error, noise = (float(np.square(e, dtype=np.float64).sum()) for e in (got - expected, own))
        tolerance = 4 * math.sqrt(noise / energy) + 4 * precision.epsilon
        return LayerParity(path, math.sqrt(error / energy) if math.isfinite(error) else math.inf, len(x), 0, tolerance)
    tolerance = LINEAR_TOLERANCE if precision is Precision.FP32 else 4 * precision.epsilon
    errors = np.abs(got - expected).max(-1) / max(float(np.abs(expected).max()), 1e-30)
    return verdict(path, errors, _array(tie_rows(module, x)), tolerance)


def _compare_conv(file: Model, path: str, _call: int, module: QuantConv2d, x: Tensor) -> LayerParity:
    """x [frames, C, H, W]."""
    cut = cut_linear(file, path, ("frames", None, None, None))
    if cut.type == TensorProto.FLOAT16:
        x = x.half().float()  # as it arrives in the network
    if not module.rounds_output:
        values = _array(module.forward(x.float()))  # a call would end up here again
        difference = np.abs(_run(cut, _array(x.float()), values.shape) - values)
        tolerance = 4 * TYPES[cut.type].epsilon if cut.type in HALF else LINEAR_TOLERANCE
        relative = difference / max(float(np.abs(values).max()), 1e-30)
        return verdict(path, relative, np.zeros(values.shape, bool), tolerance)
    grid, scale = module.maps.grid, module.maps.grid.scale(module.out_amax)
    exact = module.product(x.float()).double() / scale.double()
    if module.shape.shuffle > 1:
        exact = F.pixel_shuffle(exact, module.shape.shuffle)
    expected = _array(grid.round(exact, 1.0))
    got = _run(cut, _array(x.float()), expected.shape).astype(np.float64) / float(scale)
    if cut.type in HALF:
        got = np.where(np.abs(got - got.round()) < HALF_OUTPUT, got.round(), got)  # the code, which left in fp16
    errors = np.abs(got - expected) / max(np.abs(expected).max(), 1e-30)
    near = grid.near_boundary(exact, HALF_TIE_WIDTH if cut.type in HALF else TIE_WIDTH)
    return verdict(path, errors, _array(near) & (np.abs(got - expected) < 1.01), LINEAR_TOLERANCE)


def verdict(path: str, errors: NDArray[np.floating], near: NDArray[np.bool_], tolerance: float) -> LayerParity:
    """Relative errors, where those above the tolerance are ties if they are `near` a rounding boundary."""
    errors[~np.isfinite(errors)] = np.inf
    ties = (errors > tolerance) & near
    return LayerParity(path, float(errors[~ties].max(initial=0.0)), errors.size, int(ties.sum()), tolerance)


def _transformed_half(module: QuantLinear, transform: InputTransform, x: Tensor, precision: Precision) -> Tensor:
    """The linear with the result of its online rotation, and what passes its grid by, rounded to `precision`."""
    rotation = transform.rotation
    handle = None if rotation is None else rotation.register_forward_hook(round_output(precision))
    try:
        x, along = transform.split(x)
    finally:
        if handle is not None:
            handle.remove()
    if along is not None and transform.basis is not None:
        rounded = along.to(precision.torch).float()
        x, along = x if transform.spec.whole else x + (along - rounded) @ transform.basis.T, rounded
    return module.product_of(x, along)


def check_outputs(
    run: Any,
    reference: Network,
    batches: Iterable[Tensor],
    scheme: Scheme,
    floor_db: float | None = None,
    precision: Precision = Precision.FP32,
) -> tuple[OutputParity, ...]:
    """Check (b): `run(images) -> {output name: array}` against the reference on batches [S, 3, H, W].

    One result per output and frame count; batches of one frame count are pooled (energies added up). `precision` is
    the float type of the network in the file.
    """
    floor = min(scheme.floor_db, find_format(precision.value).floor_db) if floor_db is None else floor_db
    pools: dict[tuple[str, int], _Pool] = {}
    own: dict[tuple[str, int], _Pool] = {}
    for images in batches:
        seen = images.to(device_of(reference))
        with torch.no_grad():
            expected = reference(seen)
            if precision is Precision.FP32:
                nudged = reference(seen * (1 + NUDGE))
            else:
                with rounding(reference, precision):
                    nudged = reference(seen)
        for name, value in run(images.numpy()).items():
            if value.shape != tuple(expected[name].shape):
                raise ValueError(f"output {name}: shape {value.shape}, expected {tuple(expected[name].shape)}")
            pools.setdefault((name, len(images)), _Pool()).add(_array(expected[name]), value)
            own.setdefault((name, len(images)), _Pool()).add(_array(expected[name]), _array(nudged[name]))
    return tuple(
        OutputParity(name, frames, pool.sqnr_db, pool.largest, floor, own[name, frames].sqnr_db)
        for (name, frames), pool in pools.items()
    )


def _array(x: Tensor) -> NDArray[Any]:
    """On the CPU, wherever the reference runs."""
    return x.cpu().numpy()


@dataclass
class _Pool:
    """Running energies of a signal and of the error of what should equal it, float64."""

    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0

    def add(self, truth: NDArray[Any], value: NDArray[Any]) -> None:
        truth, value = np.asarray(truth, np.float64), np.asarray(value, np.float64)
        error = np.where(np.isfinite(value), value, np.inf) - truth
        self.signal += float(np.square(truth).sum())
        self.noise += float(np.square(error).sum())
        self.largest = max(self.largest, float(np.abs(error).max()))

    @property
    def sqnr_db(self) -> float:
        return decibels(self.signal, self.noise)
