"""The quantizers: pure functions shared by the fake-quant reference, the exporter and the importer (DESIGN 3.5).

Grids are symmetric, zero point 0, round half to even (torch.round and ONNX QuantizeLinear agree). The order of the
floating-point operations below is the order of the exported ONNX nodes, so both sides round the same values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-6  # floor of a per-token range: representable in fp16, far below any activation that matters
WEIGHT_FLOOR = 1e-5  # floor of a row's largest weight, as in the published method


def qmax(bits: int) -> int:
    """Largest code of a signed grid: 127 for 8 bits, 7 for 4."""
    return 2 ** (bits - 1) - 1


def weight_scale(weight: Tensor, bits: int, block: int | None = None) -> Tensor:
    """Scale of each row, or of each run of `block` input channels of a row.

    weight [out, in] -> scale [out, 1] or [out, ceil(in / block)]: largest magnitude over Q.
    """
    if block is None:
        amax = weight.abs().amax(dim=1, keepdim=True)
    else:
        amax = torch.stack([part.abs().amax(dim=1) for part in weight.split(block, dim=1)], dim=1)
    return amax.clamp_min(WEIGHT_FLOOR) / qmax(bits)


def clip_weight(weight: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clamp each row to [low * rowmin, high * rowmax]; low and high in (0, 1], [out, 1] (learned clip ratios)."""
    floor = weight.amin(dim=1, keepdim=True) * low
    ceiling = weight.amax(dim=1, keepdim=True) * high
    return torch.maximum(torch.minimum(weight, ceiling), floor)


def spread(scale: Tensor, columns: int, block: int | None) -> Tensor:
    """A block scale [out, blocks] repeated over its input channels [out, columns]; a row scale passes unchanged."""
    return scale if block is None else scale.repeat_interleave(block, dim=1)[:, :columns]


def weight_codes(weight: Tensor, scale: Tensor, bits: int, block: int | None = None) -> Tensor:
    """Round-to-nearest integer codes in [-Q, Q], int8 [out, in]."""
    q = qmax(bits)
    return (weight / spread(scale, weight.shape[1], block)).round().clamp(-q, q).to(torch.int8)


def dequantize_weight(codes: Tensor, scale: Tensor, block: int | None = None) -> Tensor:
    """codes * scale, in the scale's dtype [out, in]."""
    return codes.to(scale.dtype) * spread(scale, codes.shape[1], block)


@dataclass(frozen=True)
class TokenQuantized:
    """Activations on their grid: x ~ codes * step * range. `codes` are integers held in the input's dtype."""

    codes: Tensor  # [..., in]
    step: float  # 1 / Q, a constant
    range: Tensor  # [..., 1], one value per token

    @property
    def normalised(self) -> Tensor:
        return self.codes * self.step


def token_range(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Per-token range a_t = max(high * max x, low * max(-x), eps), shape [..., 1].

    With low == high == c this is c * max |x|; the released QuantVGGT clips differ per side.
    """
    return torch.maximum(x.amax(-1, keepdim=True) * high, -x.amin(-1, keepdim=True) * low).clamp_min(EPS)


def quantize_tokens(x: Tensor, bits: int, low: float | Tensor = 1.0, high: float | Tensor = 1.0) -> TokenQuantized:
    """Dynamic per-token quantization: normalise by the token's range, then a constant step (DESIGN 3.5).

    Values outside the range are clipped to [-(Q+1)/Q, 1] ranges, i.e. to codes [-Q-1, Q].
    """
    a, constant = token_range(x, low, high), step(bits)
    return TokenQuantized(round_to_grid(x / a, constant, bits), constant, a)


def step(bits: int) -> float:
    """Grid step of a range of 1: 1 / Q, rounded to the fp32 value the ONNX constant holds."""
    return float(torch.tensor(1.0) / qmax(bits))


def tensor_step(amax: Tensor, bits: int) -> Tensor:
    """Grid step of the range of a whole tensor: amax / Q, a scalar tensor of amax's type."""
    return amax / amax.new_tensor(qmax(bits))  # CUDA divides by a number on the CPU as times its reciprocal


def round_to_grid(x: Tensor, spacing: float | Tensor, bits: int) -> Tensor:
    """Codes in [-Q-1, Q] of x on a grid of this step; the Clip is what an int8 container needs below 8 bits."""
    q = qmax(bits)
    s = torch.as_tensor(spacing, dtype=x.dtype, device=x.device)
    if bits < 8:
        x = torch.minimum(torch.maximum(x, -(q + 1) * s), q * s)
    return (x / s).round().clamp(-q - 1, q)
