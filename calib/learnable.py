"""A linear whose smoothing scale and clips can be learned through its own rounding."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.calib.branch import branch_basis
from qvggt.calib.gptq import InputMoments, fitted_codes
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.tensor_format import EPS, LEAST_BLOCK, WEIGHT_FLOOR
from qvggt.models.token_types import current_types
from qvggt.quant.kronecker import KroneckerHadamard
from qvggt.quant.linear import QuantLinear
from qvggt.quant.transform import InputTransform, TransformSpec, apart

RATIOS = tuple(0.5 + 0.05 * i for i in range(31))  # of a grid with exponents to the largest weight
RANGES = tuple(0.6 + 0.05 * i for i in range(9))  # of integer grids to the largest weight
TRIED = 1 << 16  # values that clips are tried on at a time, which stay in a cache
START = 4.0  # logit of the clips at the start: 0.982 of the observed extremes


def _product(x: Tensor, ranges: Tensor | None) -> Tensor:
    return x if ranges is None else x * ranges


class LearnableLinear(nn.Module):
    """Fake quantization of one linear with learnable scale s [in], weight clips and activation clips.

    Weight clips are ratios of each row's extremes, [out, blocks, 1] for the blocks of input channels that share a
    scale (one block where the format has none).

    The input loses a constant (`start_shift`) or the mean of its token's type (`start_center`), is rotated (if the
    linear has an online rotation) and divided by s; the weight carries the inverse. What then lies along the columns of
    `basis` [in, rank] (`start_branch`) passes the grids by.
    The rounding is `QuantLinear`'s own, passed straight through; scales and clips are not detached.
    """

    def __init__(
        self,
        linear: nn.Linear,
        format: LinearFormat,
        rotation: KroneckerHadamard | None = None,
    ) -> None:
        super().__init__()
        weight = linear.weight.detach().float().clone()
        self.format, self.rotation = format, rotation
        self.weight = nn.Parameter(weight if rotation is None else rotation.rotate_weight(weight))
        self.register_buffer("center", None)
        self.register_buffer("shift", None)
        self.register_buffer("basis", None)
        self.kind_bias: nn.Parameter | None = None
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().float().clone())
        self.log_scale = nn.Parameter(weight.new_zeros(linear.in_features))
        blocks = format.weight.granularity.groups(linear.in_features)
        self.clip_low = nn.Parameter(weight.new_full((linear.out_features, blocks, 1), START))
        self.clip_high = nn.Parameter(weight.new_full((linear.out_features, blocks, 1), START))
        self.act_clip = nn.Parameter(weight.new_full((2,), START))  # negative side, positive side
        self.log_amax = nn.Parameter(weight.new_zeros(()))
        self.register_buffer("ratio", None)
        self.held: Tensor | None = None  # the quantized weight, for passes between which nothing changes
        self.codes: Tensor | None = None  # weights rounded by other means, once learning is over
        self.latent: Tensor | None = None  # and what was rounded to them
        if format.has_room:
            self.log_amax.requires_grad_(False)

    @property
    def types(self) -> int:
        """Types of tokens it treats apart."""
        return 0 if self.center is None else len(self.center)

    def centered(self, x: Tensor) -> Tensor:
        """x without the constant, or without the center of each token's type."""
        if self.shift is not None:
            return x - self.shift
        return x if self.center is None else x - F.embedding(current_types(), self.center)

    def transformed(self, x: Tensor) -> Tensor:
        """The (centered) input after rotation and smoothing."""
        if self.rotation is not None:
            x = self.rotation(x)
        return x / self.log_scale.exp()

    def smoothed_weight(self) -> Tensor:
        """What the grid is laid over, before clips [out, in]."""
        weight = self.weight * self.log_scale.exp()
        return weight if self.basis is None else apart(weight, self.basis)[0]

    @property
    def branch(self) -> Tensor | None:
        """The weight of what passes the grid by, [rank, out]."""
        return None if self.basis is None else self.basis.T @ (self.weight * self.log_scale.exp()).T

    @torch.no_grad()
    def start_branch(self, x: Tensor, rank: int, seed: int) -> None:
        """Let `rank` directions of inputs like x [rows, in], centered already, pass the grids by: exact."""
        self.basis = branch_basis(self.transformed(x), self.smoothed_weight(), rank, seed)

    @torch.no_grad()
    def start_center(self, means: Tensor) -> None:
        """Take `means` [types, in] off the tokens; their product with the weight becomes a bias per type: exact."""
        self.center = means.clone()
        rotated = means if self.rotation is None else self.rotation(means)
        self.kind_bias = nn.Parameter(rotated @ self.weight.T)

    @torch.no_grad()
    def start_shift(self, mean: Tensor) -> None:
        """Take `mean` [in] off every token; its product with the weight goes into the bias, of which there must be one:
        exact."""
        assert self.bias is not None
        self.shift = mean.clone()
        self.bias.add_((mean if self.rotation is None else self.rotation(mean)) @ self.weight.T)

    def clipped_weight(self) -> Tensor:
        """The weight the grid is laid over, [out, in]."""
        if self.ratio is not None:
            return self.smoothed_weight()
        smoothed = self.format.weight.granularity.split(self.smoothed_weight())
        low = smoothed.amin(-1, keepdim=True).clamp_max(0) * self.clip_low.sigmoid()
        high = smoothed.amax(-1, keepdim=True).clamp_min(0) * self.clip_high.sigmoid()
        return torch.maximum(torch.minimum(smoothed, high), low).flatten(1)[:, : self.weight.shape[1]]

    def weight_scale(self, weight: Tensor) -> Tensor:
        """Scales [out, groups] of the clipped weight."""
        return self.format.weight.scale(weight, self.ratio)

    def quantized_weight(self) -> Tensor:
        if self.held is not None:
            return self.held
        format, weight = self.format.weight, self.clipped_weight()
        scale = self.weight_scale(weight)
        return format.dequantize(format.round(weight, scale, True) if self.codes is None else self.codes, scale)

    @torch.no_grad()
    def fit_codes(self, moments: InputMoments) -> None:
        """Codes of integer weights for inputs of these moments, each row on the best of some grids: the one it has, and
        those that end at RANGES of its largest weight. Weights beyond a grid are not clipped before: what they lose is
        made up for as any rounding error is."""
        format, weight = self.format.weight, self.smoothed_weight()
        amax = format.granularity.amax(weight).clamp_min(WEIGHT_FLOOR)
        learned = self.weight_scale(self.clipped_weight()) * format.grid.highest / amax
        ratios = [learned, *(torch.full_like(amax, ratio) for ratio in RANGES)]
        scales = [format.granularity.expand(format.scale(weight, ratio), weight.shape[1]) for ratio in ratios]
        self.codes, self.latent, chosen = fitted_codes(weight, scales, format.grid, moments)
        self.ratio = torch.stack(ratios).gather(0, chosen[None, :, None].expand(1, *amax.shape))[0]

    @property
    def act_ranges(self) -> Tensor:
        """Clip ratios [2] or the range of the tensor [], whichever the format has."""
        return self.act_clip.sigmoid() if self.format.mode == "dynamic" else self.log_amax.exp()

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(what the grid is laid over [..., in], what passes it by [..., rank] or None) of a centered x."""
        x = self.transformed(x)
        return (x, None) if self.basis is None else apart(x, self.basis)

    def quantized_product(self, x: Tensor) -> Tensor:
        """The values the weight's codes are multiplied with for a centered x, token ranges included [..., in]."""
        return self._on_grid(self.split(x)[0])

    def _on_grid(self, x: Tensor) -> Tensor:
        """x [..., in] on the activation's grid, token ranges included."""
        activation = self.format.activation
        return x if activation is None else _product(*activation.quantize(x, self.act_ranges, straight_through=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.centered(x)
        if (branch := self.branch) is None:
            y = F.linear(self.quantized_product(x), self.quantized_weight(), self.bias)
        else:
            rest, along = self.split(x)
            y = F.linear(self._on_grid(rest), self.quantized_weight(), self.bias)
            y = y if along is None else y + along @ branch
        # self.kind_bias[types] would add its gradients up in whatever order the threads come
        return y if self.kind_bias is None else y + F.embedding(current_types(), self.kind_bias)

    @torch.no_grad()
    def start_scale(self, amax_x: Tensor, alpha: float, weight: Tensor | None = None) -> None:
        """s = amax_x^alpha / amax_w^(1-alpha) per input channel, normalised to geometric mean 1.

        `amax_x` [in]: largest |rotated input|; `weight`: what amax_w is taken from, by default the rotated weight.
        """
        weight = self.weight if weight is None else weight
        amax_w = weight.abs().amax(0)
        s = amax_x.clamp_min(EPS).log() * alpha - amax_w.clamp_min(WEIGHT_FLOOR).log() * (1 - alpha)
        self.log_scale.copy_(s - s.mean())

    @torch.no_grad()
    def search_weight_clips(self) -> None:
        """Start each row's clips where the rounding error is least, both sides alike, on a grid of ratios."""
        best = torch.full_like(self.clip_low, math.inf)
        chosen = torch.full_like(self.clip_low, START)
        weight, split = self.smoothed_weight(), self.format.weight.granularity.split
        for ratio in torch.linspace(0.5, 0.995, 34).tolist():
            logit = math.log(ratio / (1 - ratio))
            self.clip_low.fill_(logit)
            self.clip_high.fill_(logit)
            error = split(self.quantized_weight() - weight).square().sum(-1, keepdim=True)
            better = error < best
            best, chosen = torch.where(better, error, best), torch.where(better, logit, chosen)
        self.clip_low.copy_(chosen)
        self.clip_high.copy_(chosen)

    @torch.no_grad()
    def search_weight_scales(self, energy: Tensor) -> None:
        """Lay each row's or block's grid where its rounding moves the product least; energy [in]: mean square of each
        (transformed) input channel. A grid with exponents need not reach the largest weight, nor end at it."""
        format, weight = self.format.weight, self.smoothed_weight()
        split, amax = format.granularity.split, format.granularity.amax(weight).clamp_min(WEIGHT_FLOOR)
        energy = split(energy)

        def search(outer: Tensor | None) -> Tensor:
            best, chosen = torch.full_like(amax, math.inf), torch.ones_like(amax)
            for ratio in RATIOS:
                scale = format.grid.scale(amax * ratio)
                if outer is not None and format.scale_grid is not None:
                    scale = format.scale_grid.round(scale, outer).clamp_min(LEAST_BLOCK) * outer
                error = (split(format.dequantize(format.round(weight, scale), scale) - weight).square() * energy).sum(
                    -1
                )
                better = error < best
                best, chosen = torch.where(better, error, best), torch.where(better, scale, chosen)
            return chosen

        scale = search(None)
        if format.scale_grid is not None:
            largest, outer = scale.max(-1, keepdim=True).indices, format.split_scale(scale)[1]
            scale = search(outer).scatter(-1, largest, outer * format.scale_grid.highest)
        self.ratio = scale * format.grid.highest / amax

    @torch.no_grad()
    def search_act_clip(self, x: Tensor) -> None:
        """Start the activation clip or range where the rounding error of inputs x [..., in] is least."""
        if self.format.activation is None:
            return
        if self.format.has_room:  # a wider range rounds as well
            self._set_act(1 - 1e-7, float(self.split(x)[0].abs().max()))
            return
        target = self.split(x)[0].flatten(0, -2)
        amax = float(target.abs().max())
        ratios = torch.linspace(0.4 if self.format.activation.dynamic else 0.1, 0.995, 40).tolist()
        errors = [0.0] * len(ratios)
        rows = max(1, TRIED // target.shape[1])
        for part in target.split(rows):
            for i, ratio in enumerate(ratios):
                self._set_act(ratio, amax)
                errors[i] += float(
                    (_product(*self.format.activation.quantize(part, self.act_ranges)) - part).square().sum()
                )
        chosen = ratios[errors.index(min(errors))]
        self._set_act(chosen, amax)

    @torch.no_grad()
    def start_at_extremes(self, x: Tensor | None, margin: float) -> None:
        """Clips at `margin` (in (0, 1)) of the observed extremes; a static range at that of inputs x [..., in]."""
        logit = math.log(margin / (1 - margin))
        for clip in (self.clip_low, self.clip_high):
            clip.fill_(logit)
        self._set_act(margin, 1.0 if x is None else float(self.split(x)[0].abs().max()))

    def _set_act(self, ratio: float, amax: float) -> None:
        self.act_clip.fill_(math.log(ratio / (1 - ratio)))
        activation = self.format.activation
        self.log_amax.fill_(math.log(EPS if activation is None else activation.constant_range(ratio * amax)))

    @torch.no_grad()
    def finish(self, folded: bool = False, row_scale: Tensor | None = None) -> QuantLinear:
        """The learned linear as a `QuantLinear`.

        `folded`: the layer before divides by s and takes `constant` off; otherwise that is left for run time. Where
        activations stay floating point it need not go: its product with the rounding error goes into the bias.
        `row_scale` [out]: factor of each output row (codes do not change: a row's grid scales with it).
        """
        format, weight = self.format.weight, self.clipped_weight()
        scale = self.weight_scale(weight)
        codes = format.codes(weight, scale) if self.codes is None else self.codes.to(format.grid.dtype)
        bias: Tensor | None = self.bias
        if self.shift is not None and self.format.activation is None and bias is not None:
            rest, along = self.split(self.shift)
            bias = bias - rest @ format.dequantize(codes, scale).T
            bias = bias if along is None or self.branch is None else bias - along @ self.branch
        kind_bias = None
        if self.kind_bias is not None:
            kind_bias, bias = self.kind_bias if bias is None else self.kind_bias + bias, None
        if row_scale is not None:
            scale = scale * row_scale[:, None]
            bias = None if bias is None else bias * row_scale
            kind_bias = None if kind_bias is None else kind_bias * row_scale
        transform, branch = self._input_transform(folded), self.branch
        module = QuantLinear.from_codes(codes, scale, bias, self.format, transform, kind_bias)
        if branch is not None:
            module.branch = branch if row_scale is None else branch * row_scale
        if self.format.mode == "dynamic":
            module.act_clip = self.act_ranges
        elif self.format.observed:
            module.act_amax = self.act_ranges
        return module

    @property
    def constant(self) -> Tensor | None:
        """What every token loses, [in]: the layer before may do it."""
        if self.format.activation is None:
            return None
        return self.shift if self.center is None else self.center[-1]

    def _input_transform(self, folded: bool) -> InputTransform | None:
        """What is left to do to the input at run time."""
        smooth = not folded and bool((self.log_scale != 0).any())
        center = self.center
        if folded and center is not None:  # tokens arrive without the patches' constant, divided by s
            center = (center - center[-1]) / self.log_scale.exp()
        elif not folded and self.shift is not None and self.format.activation is not None:
            raise ValueError("a constant is taken off by the layer before, and there is none")
        rank = 0 if self.basis is None else self.basis.shape[1]
        spec = TransformSpec(self.rotation is not None, smooth, self.types, rank)
        if not spec:
            return None
        transform = InputTransform(self.weight.shape[1], spec)
        if self.rotation is not None:
            transform.rotation = copy.deepcopy(self.rotation)
        if spec.scale:
            transform.scale = (-self.log_scale).exp()
        if center is not None:
            transform.center = center
        transform.basis = self.basis
        return transform
