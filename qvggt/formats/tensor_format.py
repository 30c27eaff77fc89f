"""Tensor formats: a grid, who shares a scale, and where the scale comes from. The quantizers of fake-quant modules,
calibration and importers (DESIGN 3.5); the order of their floating-point operations is that of the exported ONNX nodes,
so that both sides round the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvggt.formats.granularity import Granularity
from qvggt.formats.grid import Grid

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6  # floor of a per-token range: representable in fp16, far below any activation that matters
WEIGHT_FLOOR = 1e-5  # floor of a row's largest weight, as in the published method
LEAST_BLOCK = 2.0**-6  # least code of a block's scale, in units of the scale of scales: above 0, and E4M3's normals


@dataclass(frozen=True)
class TensorFormat:
    """Numbers of one operand. dynamic: the scale is taken from the values at run time; else it is a constant.

    scale_grid: what the scales of blocks are rounded to, under one scale of scales for each row of a weight and for all
    of an activation; None for floating point. Blocks of an activation take their scales from the values at run time;
    what `dynamic` says is then of the scale of scales.
    """

    grid: Grid
    granularity: Granularity
    dynamic: bool = False
    scale_grid: Grid | None = None

    def constant_range(self, amax: float) -> float:
        """The range to lay the grid over where the largest magnitude that was observed is `amax`."""
        return max(amax * self.grid.headroom, EPS)

    def scale(self, weight: Tensor, ratio: Tensor | None = None) -> Tensor:
        """Scale of each row or block: weight [out, in] -> [out, groups]; what `split_scale` takes apart.

        ratio [out, groups]: of the range the grid is laid over to the largest weight.
        """
        amax = self.granularity.amax(weight).clamp_min(WEIGHT_FLOOR)
        scale = self.grid.scale(amax if ratio is None else amax * ratio)
        if self.scale_grid is None:
            return scale
        codes, outer = self.split_scale(scale)
        return codes * outer

    def split_scale(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Block scales [out, groups] of a weight as (codes on the grid of scales [out, groups], scale of these scales
        [out, 1]): the largest of a row has the largest code, so a factor of the row changes no code."""
        assert self.scale_grid is not None
        outer = self.scale_grid.scale(scale.amax(-1, keepdim=True))
        return self.scale_grid.round(scale, outer, straight_through=True).clamp_min(LEAST_BLOCK), outer

    def round(self, weight: Tensor, scale: Tensor, straight_through: bool = False) -> Tensor:
        """Round-to-nearest codes [out, in], held in the weight's dtype."""
        return self.grid.round(weight, self.granularity.expand(scale, weight.shape[-1]), straight_through)

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Round-to-nearest codes [out, in] in the grid's own dtype."""
        return self.round(weight, scale).to(self.grid.dtype)

    def dequantize(self, codes: Tensor, scale: Tensor) -> Tensor:
        """codes * scale, in the scale's dtype [out, in]."""
        return codes.to(scale.dtype) * self.granularity.expand(scale, codes.shape[-1])

    def quantize_tokens(
        self, x: Tensor, low: float | Tensor = 1.0, high: float | Tensor = 1.0, straight_through: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Dynamic per-token quantization: normalise by the token's range, then a constant scale (DESIGN 3.5).

        Returns (codes [..., in], ranges [..., 1]) with x ~ codes * `grid.unit_scale` * range, both in x's dtype.
        Values outside the range saturate at the grid's extreme codes.
        """
        a = token_range(x, low, high)
        return self.grid.round(x / a, self.grid.unit_scale, straight_through), a

    def quantize_tensor(self, x: Tensor, amax: Tensor, straight_through: bool = False) -> Tensor:
        """x on the grid of the range of a whole tensor (a scalar)."""
        scale = self.grid.scale(amax)
        if straight_through:  # changes no code: what lies beyond the range learns the range, also within half a code
            x = self.grid.clip(x, scale)
        return self.grid.round(x, scale, straight_through) * scale

    def block_scales(self, x: Tensor, amax: Tensor) -> Tensor:
        """Scales of blocks of x [..., in], on their own grid under the constant scale that the range of the whole
        tensor `amax` (a scalar) gives them: [..., groups]."""
        assert self.scale_grid is not None
        outer = self.outer_scale(amax)
        scale = (self.granularity.amax(x) * self.grid.unit_scale).maximum(outer * LEAST_BLOCK)
        return self.scale_grid.round(scale, outer) * outer

    def outer_scale(self, amax: Tensor) -> Tensor:
        """Scale of the scales of blocks in a tensor of range `amax`."""
        assert self.scale_grid is not None
        return self.scale_grid.scale(self.grid.scale(amax))

    def quantize_blocks(self, x: Tensor, amax: Tensor, straight_through: bool = False) -> Tensor:
        """x [..., in] on the grid of its blocks' scales (`block_scales`)."""
        scale = self.granularity.expand(self.block_scales(x.detach(), amax), x.shape[-1])
        return self.grid.round(x, scale, straight_through) * scale

    def near_boundary(self, x: Tensor, ranges: Tensor, width: float) -> Tensor:
        """bool [..., in]: values less than `width` units of the grid from where their code changes; of blocks also
        all values whose scale's code does. ranges: as in `quantize`. float64 inside."""
        x, ranges = x.double(), ranges.double()
        if self.dynamic:
            return self.grid.near_boundary(x / token_range(x, ranges[0], ranges[1]) / self.grid.unit_scale, width)
        if self.scale_grid is None:
            return self.grid.near_boundary(x / self.grid.scale(ranges), width)
        scale = (self.granularity.amax(x) * self.grid.unit_scale) / self.outer_scale(ranges)
        near = self.granularity.expand(self.scale_grid.near_boundary(scale, width), x.shape[-1])
        scales = self.granularity.expand(self.block_scales(x, ranges), x.shape[-1])
        return near | self.grid.near_boundary(x / scales, width)

    def quantize(self, x: Tensor, ranges: Tensor, straight_through: bool = False) -> tuple[Tensor, Tensor | None]:
        """(what a weight is multiplied with [..., in], the token ranges [..., 1] to multiply back after it or None).

        ranges: clip ratios [2] of the negative and the positive side where dynamic, else the range of the tensor [].
        """
        if self.scale_grid is not None:
            return self.quantize_blocks(x, ranges, straight_through), None
        if not self.dynamic:
            return self.quantize_tensor(x, ranges, straight_through), None
        codes, a = self.quantize_tokens(x, ranges[0], ranges[1], straight_through)
        return codes * self.grid.unit_scale, a


def token_range(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Per-token range a_t = max(high * max x, low * max(-x), eps), shape [..., 1].

    With low == high == c this is c * max |x|; the released QuantVGGT clips differ per side.
    """
    return (x.amax(-1, keepdim=True) * high).maximum(-x.amin(-1, keepdim=True) * low).clamp_min(EPS)
