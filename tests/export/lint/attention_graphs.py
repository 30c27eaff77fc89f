"""Small ONNX models of attention on codes, good and bad."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lint_graphs import Dims, Net
from onnx import ModelProto, TensorProto

FP8, INT8 = TensorProto.FLOAT8E4M3FN, TensorProto.INT8
HEADS, WIDTH = 4, 64
INPUT = 3 * HEADS * WIDTH
P_SCALE = 146 / 2**16  # about 1/448


@dataclass(frozen=True)
class Form:
    """tokens: of a sequence, a name where symbolic. quantized: which of q, k, p (softmax output) and v. output: whether
    that is quantized too. kind: float type of the network. frames: whether sequences are frames of a symbolic count
    that are put together, each of `tokens`."""

    tokens: int | str = "n"
    quantized: str = "qkpv"
    codes: int = FP8
    output: bool = False
    kind: str = "f16"
    together: bool = False

    def model(self) -> ModelProto:
        dims: Dims = ("s", self.tokens, INPUT) if isinstance(self.tokens, int) else (1, self.tokens, INPUT)
        net = Net(dims, self.kind)
        zero, p_scale = net.zero(self.codes), P_SCALE if self.codes == FP8 else 1 / 127

        def rounded(x: str, scale: float) -> str:
            codes = net.op("QuantizeLinear", x, net.store(scale, np.float32), zero)
            return net.op("DequantizeLinear", codes, net.real(scale), zero)

        def operand(name: str, x: str, scale: float = 2.0**-5) -> str:
            if name in self.quantized:
                return rounded(x, scale)
            return net.op("Cast", x, to=net.kind)

        whole = net.op("Cast", net.op("Mul", "x", net.normal(INPUT)), to=TensorProto.FLOAT)
        first = net.op("Split", whole, net.store([INPUT // 3] * 3, np.int64), outputs=3, axis=-1)
        split, parts = net.store([0, -1, HEADS, WIDTH], np.int64), (first, f"{first}1", f"{first}2")
        heads = [net.op("Reshape", part, split) for part in parts]
        if self.together:
            heads = [net.op("Reshape", part, net.store([1, -1, HEADS, WIDTH], np.int64)) for part in heads]
        root = net.store(WIDTH**-0.25, np.float32)
        turned = zip(heads, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        q, k, v = (net.op("Transpose", part, perm=perm) for part, perm in turned)
        q, k = net.op("Mul", q, root), net.op("Mul", k, root)
        scores = net.op("MatMul", operand("q", q), operand("k", k))
        weights = net.op("Softmax", net.op("Cast", scores, to=TensorProto.FLOAT), axis=-1)
        y = net.op("MatMul", operand("p", weights, p_scale), operand("v", v))
        y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.store([0, -1, INPUT // 3], np.int64))
        weight = net.normal(INPUT // 3, INPUT // 3)
        if self.output:
            y = rounded(net.op("Cast", y, to=TensorProto.FLOAT), 0.01)
            weight = rounded(net.store(net.rng.normal(size=(INPUT // 3, INPUT // 3)), np.float32), 0.01)
        return net.model(net.op("MatMul", y, weight))


FORMS = {
    "fp16": Form(64, ""),
    "fp8": Form(64),
    "fp8_bf16": Form(64, kind="bf16"),
    "fp8_long": Form(1374),
    "fp8_output": Form(64, output=True),
    "fp8_together": Form(64, together=True),
    "fp8_31": Form(31),
    "fp8_float32": Form(64, kind="f32"),
    "fp8_without_v": Form(64, "qkp"),
    "fp8_without_p": Form(64, "qkv"),
    "fp8_scores_alone": Form(64, "qk"),
    "fp8_values_alone": Form(64, "pv"),
    "int8": Form(512, codes=INT8, output=True),
    "int8_output_float": Form(512, codes=INT8),
    "int8_513": Form(513, codes=INT8, output=True),
}
