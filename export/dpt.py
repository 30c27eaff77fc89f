"""Emission of dense heads (qvggt.models.dpt)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from qvggt.export.blocks import emit_norm
from qvggt.export.forms.convolution import emit_quant_conv
from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import array
from qvggt.export.precision import Precision
from qvggt.models.dpt import DPTHead, FeatureFusion, ResidualConvUnit, position_map
from qvggt.quant.conv import QuantConv2d
from qvggt.target import Target


class DPTEmitter:
    """Emits one DPT head for images of height x width; nodes and tensors under `path`.

    fp16 in an fp16 network, fp32 in a bf16 one: opset 21 has no bf16 convolution, and 8 bits of mantissa are too few
    for a depth map.
    """

    def __init__(
        self, builder: GraphBuilder, path: str, head: DPTHead, height: int, width: int, target: Target = Target.CPU
    ) -> None:
        self.builder, self.path, self.head, self.target = builder, path, head, target
        self.height, self.width = height, width
        self.precision = Precision.FP16 if builder.precision is Precision.FP16 else Precision.FP32

    def emit(self, levels: Mapping[int, str]) -> tuple[str, str]:
        """Rounds {layer: [S, P, 2C]} -> (values [S, H, W, out-1], confidence [S, H, W])."""
        b, head, path = self.builder, self.head, self.path
        rows, cols = self.height // head.patch_size, self.width // head.patch_size
        self.frames = b.op("Shape", [levels[head.layers[0]]], path, start=0, end=1)
        maps, sizes = [], []
        for i, layer in enumerate(head.layers):
            start = head.patch_start
            x = b.slice(levels[layer], 1, start, start + rows * cols, f"{path}.norm")
            x = emit_norm(b, f"{path}.norm", head.norm, x)
            x = b.op("Transpose", [b.cast(x, self.precision, f"{path}.norm")], f"{path}.norm", perm=[0, 2, 1])
            x = b.reshape(x, (0, head.norm.normalized_shape[0], rows, cols), f"{path}.norm")
            x = self.conv(f"{path}.projects.{i}", head.projects[i], x)
            x = self.position(f"{path}.projects.{i}.position", x, channels_of(head.projects[i]), rows, cols)
            x, size = self.resized_level(i, x, rows, cols)
            maps.append(self.scratch(f"layer{i + 1}_rn", x))
            sizes.append(size)
        x = maps[3]
        for i in (4, 3, 2, 1):
            size = sizes[i - 2] if i > 1 else (2 * sizes[0][0], 2 * sizes[0][1])
            x = self.fusion(f"{path}.scratch.refinenet{i}", i, x, None if i == 4 else maps[i - 1], size)
        channels, size = channels_of(head.scratch.get_submodule("output_conv1")), (self.height, self.width)
        x = self.resize(f"{path}.scratch.resize", self.scratch("output_conv1", x), channels, size)
        x = self.position(f"{path}.scratch.position", x, channels, self.height, self.width)
        first, last = f"{path}.scratch.output_conv2.0", f"{path}.scratch.output_conv2.2"
        narrow, final = (head.scratch.get_submodule(f"output_conv2.{i}") for i in (0, 2))
        x = b.op("Relu", [self.conv(first, narrow, x)], first)
        # what follows is exponentiated: an fp16 step of 2^-9 here would be 0.2 % of a depth
        return self.activate(self.conv(last, final, x, Precision.FP32), convolution(final).out_channels)

    def resized_level(self, i: int, x: str, rows: int, cols: int) -> tuple[str, tuple[int, int]]:
        """resize_layers[i] and the size of what it returns."""
        layer = self.head.resize_layers[i]
        if isinstance(layer, nn.Identity):
            return x, (rows, cols)
        x = self.conv(f"{self.path}.resize_layers.{i}", layer, x)
        if isinstance(layer, QuantConv2d):
            stride, grows = max(layer.shape.stride, layer.shape.shuffle), layer.shape.shuffle > 1
        else:
            stride, grows = int(convolution(layer).stride[0]), isinstance(layer, nn.ConvTranspose2d)
        if grows:
            return x, (rows * stride, cols * stride)
        return x, (-(-rows // stride), -(-cols // stride))

    def activate(self, raw: str, channels: int) -> tuple[str, str]:
        """exp / expm1 tails, fp32: (values, confidence = 1 + exp)."""
        b, path = self.builder, f"{self.path}.activate"
        raw = b.op("Transpose", [raw], path, perm=[0, 2, 3, 1])
        values, confidence = b.slice(raw, 3, 0, channels - 1, path), b.slice(raw, 3, channels - 1, channels, path)
        one = b.constant("one", np.array(1, np.float32))
        confidence = b.op("Add", [b.op("Exp", [b.op("Squeeze", [confidence, b.ints(3)], path)], path), one], path)
        if self.head.activation == "exp":
            return b.op("Exp", [values], path), confidence
        # sign(y) expm1 |y| = tanh(y/2) (exp |y| + 1): exp - 1 would lose every digit near the first camera
        half = b.constant("half", np.array(0.5, np.float32))
        tanh = b.op("Tanh", [b.op("Mul", [values, half], path)], path)
        grown = b.op("Add", [b.op("Exp", [b.op("Abs", [values], path)], path), one], path)
        return b.op("Mul", [tanh, grown], path), confidence

    def fusion(self, path: str, i: int, x: str, lateral: str | None, size: tuple[int, int]) -> str:
        fusion = self.head.scratch.get_submodule(f"refinenet{i}")
        assert isinstance(fusion, FeatureFusion)
        if lateral is not None and fusion.resConfUnit1 is not None:
            x = self.builder.op("Add", [x, self.unit(f"{path}.resConfUnit1", fusion.resConfUnit1, lateral)], path)
        x = self.unit(f"{path}.resConfUnit2", fusion.resConfUnit2, x)
        x = self.resize(path, x, channels_of(fusion.out_conv), size)
        return self.conv(f"{path}.out_conv", fusion.out_conv, x)

    def unit(self, path: str, unit: ResidualConvUnit, x: str) -> str:
        """Residual unit whose skip carries relu(x)."""
        b = self.builder
        x = b.op("Relu", [x], path)
        y = b.op("Relu", [self.conv(f"{path}.conv1", unit.conv1, x)], path)
        return b.op("Add", [self.conv(f"{path}.conv2", unit.conv2, y), x], path)

    def scratch(self, name: str, x: str) -> str:
        return self.conv(f"{self.path}.scratch.{name}", self.head.scratch.get_submodule(name), x)

    def conv(self, path: str, module: nn.Module, x: str, precision: Precision | None = None) -> str:
        b = self.builder
        precision = precision or self.precision
        if isinstance(module, QuantConv2d):
            return emit_quant_conv(b, path, module, x, self.target, precision)
        conv = convolution(module)
        inputs = [b.cast(x, precision, path), b.real(f"{path}.weight", array(conv.weight), precision)]
        if conv.bias is not None:
            inputs.append(b.real(f"{path}.bias", array(conv.bias), precision))
        pads = [int(p) for p in conv.padding]
        return b.op(
            "ConvTranspose" if isinstance(conv, nn.ConvTranspose2d) else "Conv",
            inputs,
            path,
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            pads=[*pads, *pads],
        )

    def position(self, path: str, x: str, channels: int, rows: int, cols: int) -> str:
        """Add 0.1 times the baked position map; heads of one size share it.

        The first half of the channels depends on the column only, the second on the row only, so a line of each is
        stored, zero elsewhere, and broadcast: 0.5 instead of 137 MB at 518 x 518, the same numbers.
        """
        aspect, cpu = self.width / self.height, torch.device("cpu")
        across = 0.1 * position_map(channels, 1, cols, aspect, cpu)  # [1, channels, 1, cols]
        across[:, channels // 2 :] = 0
        down = 0.1 * position_map(channels, rows, 1, aspect, cpu)  # [1, channels, rows, 1]
        down[:, : channels // 2] = 0
        for name, table in (("x", across), ("y", down)):
            name = f"dpt_position_{name}_{channels}_{rows}_{cols}"
            constant = self.builder.real(name, table.numpy(), self.precision)
            x = self.builder.op("Add", [x, constant], path)
        return x

    def resize(self, path: str, x: str, channels: int, size: tuple[int, int]) -> str:
        """Bilinear, aligned corners, to a fixed size.

        The frame count comes from the tokens: a second reader of x would keep ONNX Runtime from fusing a quantized
        convolution before it.
        """
        b = self.builder
        sizes = b.op("Concat", [self.frames, b.ints(channels, *size)], path, axis=0)
        return b.op("Resize", [x, "", "", sizes], path, mode="linear", coordinate_transformation_mode="align_corners")


def channels_of(module: nn.Module) -> int:
    """Output channels of a convolution, quantized or not."""
    return module.shape.out_channels if isinstance(module, QuantConv2d) else convolution(module).out_channels


def convolution(module: nn.Module) -> nn.Conv2d | nn.ConvTranspose2d:
    """The module as a convolution; TypeError for anything this emitter does not know."""
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        raise TypeError(f"cannot export a {type(module).__name__} as a convolution")
    return module
