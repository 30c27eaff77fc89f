"""The parity gate: what ONNX Runtime computes from the file against the PyTorch fake-quant reference.

(a) Every quantized linear alone, fed the input it sees in the reference, must agree to float rounding. The one
exception is a value that sits on a rounding tie, where one ulp of difference moves a code by one: tokens that differ
and hold such a value are counted apart. (b) The whole network, per output, as SQNR and largest error: float noise
between the two implementations flips the odd rounding, so (b) has a floor in dB where (a) is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvggt.export.subgraph import extract_linear
from qvggt.model import VGGT
from qvggt.progress import bar
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import quantized_linears
from qvggt.quant.quantizer import step, token_range
from qvggt.quant.scheme import Scheme

LINEAR_TOLERANCE = 1e-5  # of the largest output
TIE_WIDTH = 1e-4  # distance from a half-integer code, in steps, that float rounding may cross
MAX_TIES = 0.05  # of the tokens: more than that is no accident
MAX_ROWS = 4096  # tokens per linear: enough to see every failure, bounded at 1B scale
FLOORS_DB = {"w8a8": 45.0, "w6a6": 36.0, "w4a8": 45.0, "w4a4": 30.0, "w4a16": 60.0, "fp32": 80.0}


@dataclass(frozen=True)
class LinearParity:
    """One linear: tokens compared, tokens that differ on a rounding tie, largest relative error of all others."""

    path: str
    error: float
    tokens: int
    ties: int

    def __bool__(self) -> bool:
        return self.error <= LINEAR_TOLERANCE and self.ties <= MAX_TIES * self.tokens


@dataclass(frozen=True)
class OutputParity:
    """One network output at one frame count: SQNR in dB (inf when equal), largest absolute error."""

    name: str
    frames: int
    sqnr_db: float
    max_error: float
    floor_db: float

    def __bool__(self) -> bool:
        return self.sqnr_db >= self.floor_db


@dataclass(frozen=True)
class ParityReport:
    """Both checks; truthy when every linear and every output passes."""

    linears: tuple[LinearParity, ...]
    outputs: tuple[OutputParity, ...]

    def __bool__(self) -> bool:
        return all(self.linears) and all(self.outputs)

    def failures(self) -> list[str]:
        """One line per failed check, worst first."""
        lines = [
            f"{p.path}: relative error {p.error:.2e} > {LINEAR_TOLERANCE:.0e} ({p.tokens} tokens, {p.ties} on ties)"
            for p in sorted(self.linears, key=lambda p: -p.error)
            if not p
        ]
        lines += [
            f"{p.name} with {p.frames} frames: SQNR {p.sqnr_db:.1f} dB < {p.floor_db:.0f} dB"
            for p in sorted(self.outputs, key=lambda p: p.sqnr_db)
            if not p
        ]
        return lines


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """10 log10 of signal power over error power, float64; inf for equal arrays, -inf for non-finite ones."""
    reference, other = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    if not (np.isfinite(reference).all() and np.isfinite(other).all()):
        return -math.inf
    noise = float(np.square(reference - other).sum())
    signal = float(np.square(reference).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def record_inputs(model: VGGT, images: Tensor, paths: Sequence[str]) -> dict[str, Tensor]:
    """Inputs [rows, K] of the named linears in one forward pass over images [S, 3, H, W], at most MAX_ROWS each.

    Rows are spread evenly over the tokens, so that special tokens and every frame are among them.
    """
    recorded: dict[str, Tensor] = {}

    def keep(path: str, x: Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1])
        stride = -(-len(rows) // MAX_ROWS)
        recorded[path] = rows[::stride].clone()

    hooks = [
        model.get_submodule(path).register_forward_pre_hook(lambda _m, inputs, path=path: keep(path, inputs[0]))
        for path in paths
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return recorded


def tie_rows(module: QuantLinear, x: Tensor) -> Tensor:
    """bool [rows]: tokens with a value closer than TIE_WIDTH steps to a rounding boundary inside the grid."""
    format = module.format
    if format.activation is None:
        return torch.zeros(len(x), dtype=torch.bool)
    if format.activation == "dynamic":
        scaled = x.double() / token_range(x, module.act_clip[0], module.act_clip[1]).double() / step(format.act_bits)
    else:
        scaled = x.double() / (module.act_amax.double() / (2 ** (format.act_bits - 1) - 1))
    near = ((scaled - scaled.floor()) - 0.5).abs() < TIE_WIDTH
    inside = scaled.abs() < 2 ** (format.act_bits - 1)
    return (near & inside).any(-1)


def check_linears(onnx_path: Path, reference: VGGT, images: Tensor, progress: bool = True) -> tuple[LinearParity, ...]:
    """Check (a) for every quantized linear of the reference on inputs it sees for images [S, 3, H, W]."""
    linears = dict(quantized_linears(reference))
    inputs = record_inputs(reference, images, list(linears))
    results = []
    for path, module in bar(linears.items(), desc="parity of linears", unit="linear", shown=progress):
        x = inputs.pop(path)
        with torch.no_grad():
            expected = module(x).numpy()
        got = extract_linear(onnx_path, path).run(x.numpy())
        errors = np.abs(got - expected).max(-1) / max(float(np.abs(expected).max()), 1e-30)
        errors[~np.isfinite(errors)] = np.inf
        ties = (errors > LINEAR_TOLERANCE) & tie_rows(module, x).numpy()
        error = errors[~ties].max(initial=0.0)
        results.append(LinearParity(path, float(error), len(x), int(ties.sum())))
    return tuple(results)


def check_outputs(
    run: Any, reference: VGGT, batches: Sequence[Tensor], scheme: Scheme, floor_db: float | None = None
) -> tuple[OutputParity, ...]:
    """Check (b): `run(images) -> {output name: array}` against the reference for every batch [S, 3, H, W]."""
    floor = FLOORS_DB[scheme.bits] if floor_db is None else floor_db
    results = []
    for images in batches:
        with torch.no_grad():
            expected = reference(images)
        got = run(images.numpy())
        for name, value in got.items():
            if value.shape != tuple(expected[name].shape):
                raise ValueError(f"output {name}: shape {value.shape}, expected {tuple(expected[name].shape)}")
            truth = expected[name].numpy()
            error = float(np.abs(value - truth).max())
            results.append(OutputParity(name, len(images), sqnr_db(truth, value), error, floor))
    return tuple(results)
