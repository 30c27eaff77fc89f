"""A linear whose smoothing scale and clips can be learned through its own rounding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.quant.linear import QuantLinear
from qvggt.quant.quantizer import (
    EPS,
    WEIGHT_FLOOR,
    clip_weight,
    qmax,
    step,
    token_range,
    weight_codes,
    weight_scale,
)
from qvggt.quant.scheme import LinearFormat
from qvggt.quant.transform import InputTransform, TransformSpec
from qvggt.rotation.kronecker import KroneckerHadamard

START = 4.0  # logit of the clips at the start: 0.982 of the observed extremes


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes straight through."""
    return x + (x.round() - x).detach()


class LearnableLinear(nn.Module):
    """Fake quantization of one linear with learnable scale s [in], weight clips [out, 1] and activation clips.

    The input is rotated (if the linear has an online rotation) and divided by s; the weight carries the inverse of
    both. Same arithmetic as `QuantLinear`, with straight-through rounding; scales and clips are not detached.
    """

    def __init__(self, linear: nn.Linear, format: LinearFormat, rotation: KroneckerHadamard | None = None) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.format, self.rotation = format, rotation
        self.register_buffer("weight", weight if rotation is None else rotation.rotate_weight(weight))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())
        self.log_scale = nn.Parameter(torch.zeros(linear.in_features))
        rows = linear.out_features
        self.clip_low = nn.Parameter(torch.full((rows, 1), START))
        self.clip_high = nn.Parameter(torch.full((rows, 1), START))
        self.act_clip = nn.Parameter(torch.full((2,), START))  # negative side, positive side
        self.log_amax = nn.Parameter(torch.zeros(()))
        self.codes: Tensor | None = None  # weights rounded by other means, once learning is over

    weight: Tensor
    bias: Tensor | None

    def transformed(self, x: Tensor) -> Tensor:
        """The input after rotation and smoothing."""
        if self.rotation is not None:
            x = self.rotation(x)
        return x / self.log_scale.exp()

    def smoothed_weight(self) -> Tensor:
        return self.weight * self.log_scale.exp()

    def clipped_weight(self) -> Tensor:
        """The weight the integer grid is laid over, [out, in]."""
        weight = self.smoothed_weight()
        if self.format.block is not None:
            return weight
        return clip_weight(weight, self.clip_low.sigmoid(), self.clip_high.sigmoid())

    def weight_step(self) -> Tensor:
        """Grid step of each row, [out, 1]."""
        amax = self.clipped_weight().abs().amax(1, keepdim=True)
        return amax.clamp_min(WEIGHT_FLOOR) / qmax(self.format.weight_bits)

    def quantized_weight(self) -> Tensor:
        q = qmax(self.format.weight_bits)
        weight = self.clipped_weight()
        if self.format.block is not None:
            parts = weight.split(self.format.block, dim=1)
            steps = [p.abs().amax(1, keepdim=True).clamp_min(WEIGHT_FLOOR) / q for p in parts]
            return torch.cat([round_ste(p / s).clamp(-q, q) * s for p, s in zip(parts, steps, strict=True)], 1)
        s = self.weight_step()
        codes = round_ste(weight / s).clamp(-q, q) if self.codes is None else self.codes.to(s.dtype)
        return codes * s

    def quantized_input(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(transformed input on its grid, the token ranges to multiply back or None)."""
        x = self.transformed(x)
        if self.format.activation is None:
            return x, None
        q = qmax(self.format.act_bits)
        if self.format.activation == "dynamic":
            low, high = self.act_clip.sigmoid()
            a = token_range(x, low, high)
            return round_ste(x / a * q).clamp(-q - 1, q) * step(self.format.act_bits), a
        s = self.log_amax.exp() / q
        return round_ste((x / s).clamp(-q - 1, q)) * s, None

    def forward(self, x: Tensor) -> Tensor:
        x, a = self.quantized_input(x)
        y = F.linear(x, self.quantized_weight())
        y = y if a is None else y * a
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def start_scale(self, amax_x: Tensor, alpha: float, weight: Tensor | None = None) -> None:
        """s = amax_x^alpha / amax_w^(1-alpha) per input channel, normalised to geometric mean 1.

        `amax_x` [in]: largest |rotated input|; `weight`: what amax_w is taken from, by default the rotated weight.
        """
        amax_w = (self.weight if weight is None else weight).abs().amax(0)
        s = amax_x.clamp_min(EPS).log() * alpha - amax_w.clamp_min(WEIGHT_FLOOR).log() * (1 - alpha)
        self.log_scale.copy_(s - s.mean())

    @torch.no_grad()
    def search_weight_clips(self) -> None:
        """Start each row's clips where the rounding error is least, both sides alike, on a grid of ratios."""
        if self.format.block is not None:
            return
        best = torch.full_like(self.clip_low, math.inf)
        chosen = torch.full_like(self.clip_low, START)
        weight = self.smoothed_weight()
        for ratio in torch.linspace(0.5, 0.995, 34).tolist():
            logit = math.log(ratio / (1 - ratio))
            self.clip_low.fill_(logit)
            self.clip_high.fill_(logit)
            error = (self.quantized_weight() - weight).square().sum(1, keepdim=True)
            better = error < best
            best, chosen = torch.where(better, error, best), torch.where(better, logit, chosen)
        self.clip_low.copy_(chosen)
        self.clip_high.copy_(chosen)

    @torch.no_grad()
    def search_act_clip(self, x: Tensor) -> None:
        """Start the activation clip or range where the rounding error of inputs x [..., in] is least."""
        if self.format.activation is None:
            return
        target = self.transformed(x)
        best, chosen = math.inf, 1.0
        amax = float(target.abs().max())
        for ratio in torch.linspace(0.4 if self.format.activation == "dynamic" else 0.1, 0.995, 40).tolist():
            self._set_act(ratio, amax)
            quantized, a = self.quantized_input(x)
            error = float(((quantized if a is None else quantized * a) - target).square().sum())
            if error < best:
                best, chosen = error, ratio
        self._set_act(chosen, amax)

    @torch.no_grad()
    def start_at_extremes(self, x: Tensor | None, margin: float) -> None:
        """Clips at `margin` (in (0, 1)) of the observed extremes; a static range at that of inputs x [..., in]."""
        logit = math.log(margin / (1 - margin))
        for clip in (self.clip_low, self.clip_high):
            clip.fill_(logit)
        self._set_act(margin, 1.0 if x is None else float(self.transformed(x).abs().max()))

    def _set_act(self, ratio: float, amax: float) -> None:
        self.act_clip.fill_(math.log(ratio / (1 - ratio)))
        self.log_amax.fill_(math.log(max(ratio * amax, EPS)))

    @torch.no_grad()
    def finish(self, keep_scale: bool = True, row_scale: Tensor | None = None) -> QuantLinear:
        """The learned linear as a `QuantLinear`.

        `keep_scale`: divide the input by s at run time; False where s was folded into the layer before. `row_scale`
        [out]: factor of each output row (codes do not change: a row's grid scales with it).
        """
        bits, block = self.format.weight_bits, self.format.block
        if block is None:
            scale, weight = self.weight_step(), self.clipped_weight()
        else:
            weight = self.smoothed_weight()
            scale = weight_scale(weight, bits, block)
        codes = weight_codes(weight, scale, bits, block) if self.codes is None else self.codes.to(torch.int8)
        bias = self.bias
        if row_scale is not None:
            scale = scale * row_scale[:, None]
            bias = None if bias is None else bias * row_scale
        smooth = keep_scale and bool((self.log_scale != 0).any())
        spec = TransformSpec(self.rotation is not None, smooth)
        transform = None
        if spec:
            transform = InputTransform(self.weight.shape[1], spec)
            transform.rotation = self.rotation
            if smooth:
                transform.scale = (-self.log_scale).exp()
        module = QuantLinear.from_codes(codes, scale, bias, self.format, transform)
        if self.format.activation == "dynamic":
            module.act_clip = self.act_clip.sigmoid()
        elif self.format.activation == "static":
            module.act_amax = self.log_amax.exp()
        return module
