"""A linear layer on low-bit grids: the fake-quant reference of what the exported Q/DQ nodes compute (DESIGN 3.5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.formats.linear_format import LinearFormat
from qvggt.models.token_types import current_types
from qvggt.quant.transform import InputTransform, TransformSpec


class QuantLinear(nn.Module):
    """y = (codes_x * scale_x) (codes_w * scale_w)^T * range_x + b, with codes_x of the (transformed) input.

    range_x is the range of each token with dynamic activations, absent with static ones, whose scale has the range of
    the tensor in it. x [..., in] -> y [..., out].

    Buffers: `codes` [out, in] in the grid's dtype; `weight_scale` fp32 [out, 1] or [out, blocks]; `bias` fp32 [out],
    or in its place, where the transform centers its input, `kind_bias` fp32 [types, out]: bias plus the product of the
    float weight with each center; where the transform has a basis, `branch` fp32 [rank, out]: the product of the float
    weight with each direction of it, less that of the codes where they multiply the `whole` input; with dynamic
    activations `act_clip` fp32 [2] = clip ratios of the negative and the positive side; with static ones `act_amax`
    fp32 [] = range of the tensor.
    """

    codes: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    kind_bias: Tensor | None
    branch: Tensor | None
    act_clip: Tensor
    act_amax: Tensor
    latent: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        format: LinearFormat,
        bias: bool = True,
        transform: TransformSpec | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.format = in_features, out_features, format
        self.register_buffer("codes", torch.zeros(out_features, in_features, dtype=format.weight.grid.dtype))
        self.register_buffer("latent", None, persistent=False)
        self.register_buffer("weight_scale", torch.ones(out_features, format.weight.granularity.groups(in_features)))
        types = transform.kinds if transform else 0
        self.register_buffer("bias", torch.zeros(out_features) if bias and not types else None)
        self.register_buffer("kind_bias", torch.zeros(types, out_features) if types else None)
        rank = transform.rank if transform else 0
        self.register_buffer("branch", torch.zeros(rank, out_features) if rank else None)
        self.transform = InputTransform(in_features, transform) if transform else None
        if format.mode == "dynamic":
            self.register_buffer("act_clip", torch.ones(2))
        elif format.observed:
            self.register_buffer("act_amax", torch.ones(()))

    @classmethod
    def from_float(cls, linear: nn.Linear, format: LinearFormat, amax: float | None = None) -> QuantLinear:
        """Round-to-nearest weights; `amax` is the observed activation range a static format needs."""
        if format.observed and amax is None:
            raise QvggtError("static activations need calibration data: none was given for this linear")
        weight = linear.weight.detach().float()
        scale = format.weight.scale(weight)
        module = cls.from_codes(format.weight.codes(weight, scale), scale, linear.bias, format)
        if amax is not None and format.observed:
            assert format.activation is not None
            amax = format.activation.constant_range(amax)
            module.act_amax = torch.tensor(amax, dtype=torch.float32, device=weight.device)
        return module

    @classmethod
    def from_codes(
        cls,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        format: LinearFormat,
        transform: InputTransform | None = None,
        kind_bias: Tensor | None = None,
    ) -> QuantLinear:
        """From weight codes [out, in] however they were rounded; clips at 1, range at 1.

        `kind_bias` [types, out] goes with a transform that centers, and takes the place of `bias`.
        """
        with torch.device(codes.device):
            module = cls(codes.shape[1], codes.shape[0], format, bias is not None)
        module.codes, module.weight_scale = codes, scale
        if bias is not None:
            module.bias = bias.detach().to(torch.float32, copy=True)
        module.transform, module.kind_bias = transform, kind_bias
        return module

    @property
    def types(self) -> int:
        """Types of tokens it treats apart; where there are any, it runs inside `token_types` alone."""
        return self.transform.spec.kinds if self.transform is not None else 0

    def weight_dequantized(self) -> Tensor:
        """The weight the codes stand for, fp32 [out, in]."""
        return self.format.weight.dequantize(self.codes, self.weight_scale)

    def centered(self, x: Tensor) -> Tensor:
        """The input without the centers of its tokens' types."""
        return x if self.transform is None else self.transform.centered(x)

    @property
    def act_ranges(self) -> Tensor:
        """`act_clip` or `act_amax`, whichever the format has."""
        return self.act_clip if self.format.mode == "dynamic" else self.act_amax

    def quantized_input(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(what the weight is multiplied with [..., in], the token ranges [..., 1] to multiply back or None).

        x is centered already.
        """
        return self._on_grid(x if self.transform is None else self.transform(x))

    def _on_grid(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        activation = self.format.activation
        return (x, None) if activation is None else activation.quantize(x, self.act_ranges)

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(self.centered(x))
        return y if self.kind_bias is None else y + self.kind_bias[current_types()].to(y.dtype)

    def product(self, x: Tensor) -> Tensor:
        """Everything between the centers: the (centered) input quantized and multiplied, plus what passed the grid by,
        plus the bias."""
        return self.product_of(*((x, None) if self.transform is None else self.transform.split(x)))

    def product_of(self, x: Tensor, along: Tensor | None) -> Tensor:
        """`product` of what the grid is laid over, and of what passes it by."""
        x, token_range = self._on_grid(x)
        y = F.linear(x, self.weight_dequantized().to(x.dtype))
        if token_range is not None:
            y = y * token_range
        if along is not None and self.branch is not None:
            y = y + along @ self.branch.to(y.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.format.name}"
