"""Small ONNX models of FP8 and NVFP4 forms, good and bad."""

from __future__ import annotations

import numpy as np
from lint_graphs import FLOATS, Dims, K, N, Net
from onnx import ModelProto, TensorProto

T = TensorProto
FP8, FP4 = T.FLOAT8E4M3FN, T.FLOAT4E2M1
BLOCK = 16  # of NVFP4
FRACTION = 2.0**-9  # of FP8 codes, which then are below 1 in a half type
LEVEL = 2.0**-12  # of NVFP4's block scales


class FloatNet(Net):
    """At opset 23, in which Q and DQ know FP4 and an output type."""

    def __init__(self, dims: Dims = ("m", K), kind: str = "f16", opset: int = 23) -> None:
        super().__init__(dims, kind, opset)

    def stored(self, shape: tuple[int, ...], kind: int = FP8) -> str:
        """Random codes of FP8 (positive ones, as scales are) or FP4."""
        count = int(np.prod(shape))
        if kind == FP4:
            return self.packed(self.rng.integers(-8, 8, shape), FP4)
        raw = self.rng.integers(0x20, 0x60, count).astype(np.uint8).tobytes()
        name = f"c{len(self.tensors)}"
        self.tensors.append(TensorProto(name=name, dims=shape, data_type=kind, raw_data=raw))
        return name

    def single(self, value: float) -> str:
        return self.store(value, np.float32)

    def floats(self, x: str) -> str:
        """x in float32."""
        return x if self.kind == T.FLOAT else self.op("Cast", x, to=T.FLOAT)

    def fp8(self, x: str = "x", scale: float = 0.01) -> str:
        """An activation with one constant scale: quantized in float32, read as fractions in the network's type."""
        codes = self.op("QuantizeLinear", self.floats(x), self.single(scale), self.zero(FP8))
        return self.op("DequantizeLinear", codes, self.real(FRACTION))

    def fp8_weight(
        self, scales: str = "tensor", shape: tuple[int, ...] = (K, N), axis: int = 1, block: int = 128
    ) -> str:
        codes = self.stored(shape)
        if scales == "tensor":
            return self.op("DequantizeLinear", codes, self.real(FRACTION))
        if scales == "channel":
            return self.op("DequantizeLinear", codes, self.real(np.full(shape[axis], 0.01)), axis=axis)
        sizes = (shape[0] // block, *shape[1:])
        return self.op("DequantizeLinear", codes, self.real(np.full(sizes, 0.01)), axis=0, block_size=block)

    def after(self, y: str, n: int = N, token: str = "") -> str:
        """Row scales of the weight and of the input, in float32 behind the product, the token's range behind them."""
        y = self.op("Mul", self.floats(y), self.store(np.linspace(0.5, 1, n), np.float32))
        y = self.op("Mul", y, self.floats(token)) if token else y
        return y if self.kind == T.FLOAT else self.op("Cast", y, to=self.kind)

    def block_scales(self, x: str = "x", k: int = K, size: int = BLOCK) -> str:
        """The largest of each block over 6, through FP8: [..., k / size]."""
        rank = len(self.inputs[0].type.tensor_type.shape.dim)
        blocks = self.op("Reshape", x, self.store([0] * (rank - 1) + [k // size, size], np.int64))
        largest = self.op("ReduceMax", self.op("Abs", blocks), self.store([-1], np.int64), keepdims=0)
        return self.op("Max", self.op("Mul", largest, self.real(1 / 6)), self.real(1e-3))

    def through_fp8(self, scales: str, tensor: float = 0.01) -> str:
        g = self.real(tensor)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", scales, g, self.zero(FP8)), g)

    def fp4(self, x: str = "x", k: int = K, size: int = BLOCK, passed: bool = True) -> str:
        """An activation with a scale per block, in standard operators; `passed`: its scales go through FP8."""
        scales = self.block_scales(x, k, size)
        scales = self.through_fp8(scales) if passed else scales
        block = {"axis": -1, "block_size": size}
        codes = self.op("QuantizeLinear", x, scales, output_dtype=FP4, **block)
        return self.op("DequantizeLinear", codes, scales, **block)

    def fp4_trt(self, x: str = "x") -> str:
        """The same with TensorRT's own operator."""
        g = self.single(0.01)
        codes = self.op(
            "TRT_FP4DynamicQuantize", x, g, outputs=2, domain="trt", axis=-1, block_size=BLOCK, scale_type=FP8
        )
        scales = self.op("DequantizeLinear", f"{codes}1", g, output_dtype=self.kind)
        return self.op("DequantizeLinear", codes, scales, axis=-1, block_size=BLOCK, output_dtype=self.kind)

    def fp4_weight(
        self, k: int = K, n: int = N, size: int = BLOCK, along: str = "k", passed: bool = True, turned: bool = True
    ) -> str:
        """[k, n]; `turned`: stored as [n, k]. passed: the block scales are FP8 with a second scale."""
        shape, axis = ((n, k), 1) if turned else ((k, n), 0)
        axis = axis if along == "k" else 1 - axis
        sizes = tuple(dim // size if index == axis else dim for index, dim in enumerate(shape))
        if passed:
            scales = self.op("DequantizeLinear", self.stored(sizes), self.real(LEVEL))
        else:
            scales = self.real(np.full(sizes, 0.01))
        weight = self.op("DequantizeLinear", self.stored(shape, FP4), scales, axis=axis, block_size=size)
        return self.op("Transpose", weight, perm=[1, 0]) if turned else weight

    def int4_fp8_weight(self, k: int = K, n: int = N) -> str:
        """INT4 on disk, FP8 in the product: the codes are turned into codes."""
        weight = self.op("DequantizeLinear", self.codes((n, k), 4), self.real(np.ones(n)), axis=0)
        weight = self.op("Transpose", weight, perm=[1, 0])
        codes = self.op("QuantizeLinear", weight, self.real(1), self.zero(FP8))
        return self.op("DequantizeLinear", codes, self.real(FRACTION))

    def product(self, x: str, weight: str) -> ModelProto:
        return self.model(self.after(self.op("MatMul", x, weight)))


def fp8_static(kind: str = "f16", dims: Dims = ("m", K)) -> ModelProto:
    net = FloatNet(dims, kind, 21)
    return net.product(net.fp8(), net.fp8_weight())


def fp8_dynamic(kind: str = "f16", dims: Dims = ("m", K)) -> ModelProto:
    net = FloatNet(dims, kind, 21)
    token = net.token_range()
    y = net.op("MatMul", net.fp8(net.op("Div", "x", token), 1 / 448), net.fp8_weight())
    return net.model(net.after(y, token=token))


def fp8_convolution(size: int = 3, scales: str = "tensor", channels: int = 16, side: int = 14) -> ModelProto:
    net = FloatNet((1, channels, side, side), opset=21)
    weight = net.fp8_weight(scales, (32, channels, size, size), axis=0)
    y = net.op("Conv", net.fp8(), weight, kernel_shape=[size, size], strides=[1 if size < 14 else 14] * 2)
    y = net.op("Mul", net.floats(y), net.store(np.full((32, 1, 1), 0.5), np.float32))
    return net.model(net.op("Cast", y, to=FLOATS["f16"]))


def nvfp4(kind: str = "f16", dims: Dims = ("m", K), turned: bool = True) -> ModelProto:
    net = FloatNet(dims, kind)
    return net.product(net.fp4(), net.fp4_weight(turned=turned))


def nvfp4_trt(kind: str = "f16", dims: Dims = ("m", K), turned: bool = True) -> ModelProto:
    net = FloatNet(dims, kind)
    return net.product(net.fp4_trt(), net.fp4_weight(turned=turned))


def w4afp8(kind: str = "f16", dims: Dims = ("m", K)) -> ModelProto:
    net = FloatNet(dims, kind, 21)
    return net.product(net.fp8(), net.int4_fp8_weight())
