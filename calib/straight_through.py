"""Quantize and dequantize on integer grids with the gradients that learning wants, each in one step.

The same numbers and gradients as `TensorFormat`'s `straight_through`, which autograd takes apart into some forty passes
over the tensor: rounding is passed straight through; what saturates, and the value that a range is taken from, move the
range. tests/calib/test_straight_through.py holds the two together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from qvggt.formats.grid import IntegerGrid
from qvggt.formats.tensor_format import EPS, WEIGHT_FLOOR, TensorFormat


def fused(format: TensorFormat | None) -> bool:
    """Whether the functions here take a format: integers, whose scales are floating point."""
    return format is not None and isinstance(format.grid, IntegerGrid) and format.scale_grid is None


def quantized_tokens(x: Tensor, scale: Tensor, ranges: Tensor, format: TensorFormat) -> Tensor:
    """x [..., in] divided by scale [in] and put on the grid of an activation, token ranges included; `ranges` as in
    `TensorFormat.quantize`. Gradients for x, scale and ranges."""
    out: Tensor = _Tokens.apply(x, scale, ranges, format)  # type: ignore[no-untyped-call]
    return out


def quantized_rows(weight: Tensor, low: Tensor, high: Tensor, format: TensorFormat) -> Tensor:
    """A weight split by its scales [out, groups, size], clipped at the ratios `low` and `high` [out, groups, 1] of its
    extremes and put on its grid. Gradients for weight and ratios."""
    out: Tensor = _Rows.apply(weight, low, high, format)  # type: ignore[no-untyped-call]
    return out


def _equal(x: Tensor, to: Tensor) -> Tensor:
    """1 where x is that, else 0, in x's dtype: masks of bool take a CPU five times as long, `where` twenty."""
    return torch.eq(x, to, out=torch.empty_like(x))


class _Tokens(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, ranges: Tensor, format: TensorFormat) -> Tensor:
        grid, u, extremes = format.grid, x / scale, list[Tensor]()
        if format.dynamic:
            high, low = u.amax(-1, keepdim=True), u.amin(-1, keepdim=True)
            unit, size = grid.unit_scale, (high * ranges[1]).maximum(-low * ranges[0]).clamp_min(EPS)
            extremes = [high, low]
        else:
            unit, size = 1.0, grid.scale(ranges)
        u.div_(size)
        out = grid.round(u, unit).mul_(unit).mul_(size)
        ctx.format, ctx.unit = format, unit
        ctx.save_for_backward(u, scale, ranges, size, out, *extremes)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), format, unit = gradients, ctx.format, ctx.unit
        u, scale, ranges, size, out, *extremes = ctx.saved_tensors
        # of a constant range, what lies beyond it by less than half a code learns the range too
        margin = 0.5 if format.dynamic else 0.0
        ends = (format.grid.lowest - margin) * unit, (format.grid.highest + margin) * unit
        to_x = torch.ops.aten.hardtanh_backward(gradient, u, *ends)
        # out = codes * size: the size moves the codes' value, and takes from the codes what it gives
        to_size = (gradient * out).sum(-1, keepdim=True) / size - (to_x * u).sum(-1, keepdim=True)
        if format.dynamic:
            high, low = extremes
            upper = (high * ranges[1] >= -low * ranges[0]).to(u.dtype)
            lower = 1 - upper
            to_size = to_size * (size > EPS)
            to_ranges = torch.stack([-(to_size * low * lower).sum(), (to_size * high * upper).sum()])
            extreme = torch.where(upper > 0, u.amax(-1, keepdim=True), u.amin(-1, keepdim=True))
            to_x.addcmul_(_equal(u, extreme), to_size * (upper * ranges[1] - lower * ranges[0]))
        else:
            to_ranges = format.grid.scale(to_size.sum())
        to_input = to_x / scale if ctx.needs_input_grad[0] else None
        to_scale = -((to_x.mul_(u) * size).flatten(0, -2).sum(0) / scale) if ctx.needs_input_grad[1] else None
        return to_input, to_scale, to_ranges, None


class _Rows(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, low: Tensor, high: Tensor, format: TensorFormat) -> Tensor:
        least, most = weight.amin(-1, keepdim=True).clamp_max(0), weight.amax(-1, keepdim=True).clamp_min(0)
        clipped = weight.minimum(most * high).maximum(least * low)
        size = (most * high).maximum(-least * low)
        scale = format.grid.scale(size.clamp_min(WEIGHT_FLOOR))
        out = format.grid.round(clipped, scale).mul_(scale)
        ctx.format = format
        ctx.save_for_backward(weight, low, high, least, most, clipped, size, scale, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), format = gradients, ctx.format
        weight, low, high, least, most, clipped, size, scale, out = ctx.saved_tensors
        to_weight = gradient * _equal(weight, clipped)
        beyond = gradient - to_weight  # of what is clipped, on either side
        total = beyond.sum(-1, keepdim=True)
        to_high = beyond.mul_(torch.gt(weight, 0, out=torch.empty_like(weight))).sum(-1, keepdim=True)
        to_size = format.grid.scale((gradient * (out - clipped)).sum(-1, keepdim=True) / scale)
        to_size = to_size * (size > WEIGHT_FLOOR)
        upper = (most * high >= -least * low).to(weight.dtype)
        to_low = total - to_high - to_size * (1 - upper)
        to_high = to_high + to_size * upper
        to_weight.addcmul_(_equal(weight, most), to_high * high).addcmul_(_equal(weight, least), to_low * low)
        return to_weight, to_low * least, to_high * most, None
