"""Round-to-nearest quantization of a checkpoint: the plain recipe every other one is compared with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qvggt.calib.ranges import static_ranges
from qvggt.models.network import Network
from qvggt.quant.conv import QuantConv2d, conv_rows
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import Conv, check_overrides, quantize_
from qvggt.quant.scheme import Scheme
from qvggt.sqnr import decibels


def weight_sqnr(weight: Tensor, approximation: Tensor) -> float:
    """Signal to quantization noise of a weight, in dB."""
    return decibels(float(weight.square().sum()), float((weight - approximation).square().sum()))


def quantize_rtn_(
    model: Network,
    scheme: Scheme,
    batches: Iterable[Tensor] | None = None,
    total: int | None = None,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Quantize in place with absmax round-to-nearest weights; returns path -> {"weight_sqnr_db", ...}.

    Static activations take the largest |x| of each input over `batches` ([S, 3, H, W] each, `total` of them), and
    need at least one; it is returned as "input_amax". Convolutions are always static and have "output_amax" too.
    QvggtError without, with the model untouched.
    """
    check_overrides(model, scheme)
    ranges, maps, attended = static_ranges(model, scheme, batches, total, progress)
    table: dict[str, dict[str, float]] = {}

    @torch.no_grad()
    def note(path: str, module: nn.Linear | Conv, quantized: QuantLinear | QuantConv2d) -> None:
        weight = module.weight if isinstance(module, nn.Linear) else conv_rows(module)
        table[path] = {"weight_sqnr_db": round(weight_sqnr(weight, quantized.weight_dequantized()), 3)}
        if path in ranges:
            table[path]["input_amax"] = round(ranges[path], 6)
        if path in maps:
            table[path] |= {"input_amax": round(maps[path].input, 6), "output_amax": round(maps[path].output, 6)}

    quantize_(model, scheme, ranges, maps, attended, note)
    return table
