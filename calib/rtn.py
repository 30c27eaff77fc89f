"""Round-to-nearest quantization of a checkpoint: the plain recipe every other one is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from qvggt.calib.ranges import observe_ranges
from qvggt.model import VGGT
from qvggt.quant.model import quantize_, quantized_linears, scheme_linears
from qvggt.quant.scheme import Scheme


def weight_sqnr(weight: Tensor, approximation: Tensor) -> float:
    """Signal to quantization noise of a weight, in dB."""
    noise = float((weight - approximation).square().sum())
    return math.inf if noise == 0 else 10 * math.log10(float(weight.square().sum()) / noise)


def quantize_rtn_(
    model: VGGT,
    scheme: Scheme,
    batches: Iterable[Tensor] | None = None,
    total: int | None = None,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Quantize in place with absmax round-to-nearest weights; returns path -> {"weight_sqnr_db", ...}.

    Static schemes take the min/max range of each input over `batches` ([S, 3, H, W] each) and need at least one.
    """
    linears = list(scheme_linears(model, scheme))
    ranges = None
    if any(format.activation == "static" for _, _, format in linears) and batches is not None:
        ranges = observe_ranges(model, batches, [path for path, _, _ in linears], total, progress)
    weights = {path: linear.weight.detach() for path, linear, _ in linears}
    quantize_(model, scheme, ranges)
    table: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for path, module in quantized_linears(model):
            table[path] = {"weight_sqnr_db": round(weight_sqnr(weights[path], module.weight_dequantized()), 3)}
            if ranges is not None:
                table[path]["input_amax"] = round(ranges[path], 6)
    return table
