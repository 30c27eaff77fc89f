"""A convolution of the dense heads on low-bit grids: the fake-quant reference of the exported Q/DQ convolution.

Per-token ranges have no meaning here (an input value is read by many outputs), so there is one constant range per
tensor, observed on data; a range per image was 4 dB closer at 8 bits, moved no depth error, and has no integer kernel
in ONNX Runtime. Activations have 8 bits whatever the scheme: no runtime has a 4-bit convolution, so fewer would cost
accuracy (depth abs-rel 0.072 -> 0.091 on the tiny model) and buy nothing. Of integers the output is on an 8-bit grid
too: ONNX Runtime turns DQ -> Conv -> Q into an integer kernel, without the Q it multiplies floats. TensorRT plans the
same kernels and writes the same bytes with and without it, so the output of an FP8 convolution, which ONNX Runtime has
no kernel for, is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.formats.grid import IntegerGrid
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.tensor_format import TensorFormat


@dataclass(frozen=True)
class ConvShape:
    """Sizes of a square convolution. shuffle s > 1: s^2 output rows per channel are the pixels of s x s cells, which
    is what a transposed convolution with kernel = stride = s does."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    shuffle: int = 1

    @property
    def rows(self) -> int:
        """Output rows of the product."""
        return self.out_channels * self.shuffle**2

    @classmethod
    def of(cls, conv: nn.Conv2d | nn.ConvTranspose2d) -> ConvShape:
        """TypeError for a form the dense heads do not have."""
        kernel, stride, padding = (_single(conv, name) for name in ("kernel_size", "stride", "padding"))
        if conv.groups != 1 or _single(conv, "dilation") != 1:
            raise TypeError(f"cannot quantize {conv}: expected one group, no dilation")
        if isinstance(conv, nn.Conv2d):
            return cls(conv.in_channels, conv.out_channels, kernel, stride, padding)
        if kernel != stride or padding or _single(conv, "output_padding"):
            raise TypeError(f"cannot quantize {conv}: expected kernel = stride, no padding")
        return cls(conv.in_channels, conv.out_channels, 1, 1, 0, stride)


@dataclass(frozen=True)
class ConvRange:
    """Largest |value| of a convolution's input and output (after the ReLU where one follows)."""

    input: float
    output: float


class QuantConv2d(nn.Module):
    """x [N, in, H, W] -> conv(codes_x * scale_x, codes_w * scale_w) + b, of integers on the grid of the output's range;
    conv(x, codes_w * scale_w) + b where the format leaves activations floating point.

    Buffers: `codes` [rows, in, k, k] in the grid's dtype; `weight_scale` fp32 [rows, 1]; `bias` fp32 [rows], on integer
    grids whole multiples of scale_x * scale_w as an integer kernel adds it; `act_amax`, `out_amax` fp32 [] = ranges of
    input and output, where those are quantized.
    """

    codes: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    act_amax: Tensor
    out_amax: Tensor

    def __init__(self, shape: ConvShape, format: LinearFormat, bias: bool = True) -> None:
        super().__init__()
        self.shape, self.format = shape, format
        codes = (shape.rows, shape.in_channels, shape.kernel, shape.kernel)
        self.register_buffer("codes", torch.zeros(codes, dtype=format.weight.grid.dtype))
        self.register_buffer("weight_scale", torch.ones(shape.rows, 1))
        self.register_buffer("bias", torch.zeros(shape.rows) if bias else None)
        if format.activation is not None:
            self.register_buffer("act_amax", torch.ones(()))
        if self.rounds_output:
            self.register_buffer("out_amax", torch.ones(()))

    @classmethod
    def from_float(
        cls,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        format: LinearFormat,
        ranges: ConvRange | None = None,
    ) -> QuantConv2d:
        """Round-to-nearest weights, a scale per row; ranges where activations are quantized."""
        weight = conv_rows(conv)
        scale = format.weight.scale(weight.flatten(1))
        with torch.device(weight.device):
            module = cls(ConvShape.of(conv), format, conv.bias is not None)
        module.codes = format.weight.codes(weight.flatten(1), scale).view_as(weight)
        module.weight_scale = scale
        if ranges is None:
            module.bias = None if conv.bias is None else conv.bias.detach().float().clone()
            return module
        amax = {"act_amax": ranges.input} | ({"out_amax": ranges.output} if module.rounds_output else {})
        for name, value in amax.items():
            setattr(
                module, name, torch.tensor(module.maps.constant_range(value), dtype=torch.float32, device=weight.device)
            )
        if conv.bias is not None:
            module.bias = conv.bias.detach().float().repeat_interleave(module.shape.shuffle**2)
        if module.bias is not None and module.rounds_output:
            unit = (module.maps.grid.scale(module.act_amax) * scale).squeeze(1)
            module.bias = (module.bias / unit).round() * unit
        return module

    def weight_dequantized(self) -> Tensor:
        """The weight the codes stand for, fp32 [rows, in, k, k]."""
        return self.format.weight.dequantize(self.codes.flatten(1), self.weight_scale).view(self.codes.shape)

    @property
    def maps(self) -> TensorFormat:
        """Format of the input, and of the output where that is rounded."""
        assert self.format.activation is not None
        return self.format.activation

    @property
    def rounds_output(self) -> bool:
        return self.format.activation is not None and isinstance(self.maps.grid, IntegerGrid)

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input on its grid, if it has one."""
        return x if self.format.activation is None else self.maps.quantize_tensor(x, self.act_amax)

    def product(self, x: Tensor) -> Tensor:
        """The rows before the output's rounding, [N, rows, H', W']."""
        weight = self.weight_dequantized().to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv2d(self.quantized_input(x), weight, bias, self.shape.stride, self.shape.padding)

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x)
        if self.rounds_output:
            y = self.maps.quantize_tensor(y, self.out_amax)
        return y if self.shape.shuffle == 1 else F.pixel_shuffle(y, self.shape.shuffle)

    def extra_repr(self) -> str:
        s = self.shape
        return f"{s.in_channels}, {s.out_channels}, kernel {s.kernel}, {self.format.name}"


def conv_rows(conv: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """The weight as rows of a plain convolution, fp32 [rows, in, k, k] (`ConvShape`)."""
    weight = conv.weight.detach().float()
    if isinstance(conv, nn.Conv2d):
        return weight
    return weight.permute(1, 2, 3, 0).reshape(-1, conv.in_channels, 1, 1)


def _single(conv: nn.Module, name: str) -> int:
    values = set(getattr(conv, name))
    if len(values) != 1:
        raise TypeError(f"cannot quantize {conv}: expected the same {name} on both sides")
    return int(values.pop())
