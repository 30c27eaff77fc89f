"""Small ONNX models of the forms that the lint knows, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import ModelProto, TensorProto, helper, numpy_helper

K, N = 256, 512
MS = {"domain": "com.microsoft"}
FLOATS = {"f16": TensorProto.FLOAT16, "f32": TensorProto.FLOAT, "bf16": TensorProto.BFLOAT16}
Dims = tuple["int | str", ...]


class Net:
    """A model under construction, with an input x [*dims] of a float type; node names count up."""

    def __init__(self, dims: Dims = ("m", K), kind: str = "f16", opset: int = 21) -> None:
        self.kind, self.opset = FLOATS[kind], opset
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.graph_input("x", dims)

    def graph_input(self, name: str, dims: Dims, kind: int | None = None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind or self.kind, list(dims)))
        return name

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        names = [f"{name}_out{i or ''}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=name, **attributes))
        return names[0]

    def store(self, array: ArrayLike, dtype: Any = None) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def real(self, array: ArrayLike) -> str:
        """A constant of the network's float type."""
        return self.store(np.asarray(array).astype(helper.tensor_dtype_to_np_dtype(self.kind)))

    def packed(self, codes: ArrayLike, kind: int = TensorProto.INT4) -> str:
        """A 4-bit constant, low nibble first."""
        array = np.asarray(codes, np.int8)
        nibbles = array.reshape(-1).view(np.uint8) & 15
        nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
        name, raw = f"c{len(self.tensors)}", (nibbles[0::2] | (nibbles[1::2] << 4)).tobytes()
        self.tensors.append(TensorProto(name=name, dims=array.shape, data_type=kind, raw_data=raw))
        return name

    def zero(self, kind: int) -> str:
        """A scalar zero point of any type."""
        name = f"c{len(self.tensors)}"
        size = 2 if kind in (TensorProto.INT16, TensorProto.UINT16) else 1
        self.tensors.append(TensorProto(name=name, data_type=kind, raw_data=bytes(size)))
        return name

    def quantized(self, x: str = "x", scale: float | str = 0.05, kind: int = TensorProto.INT8, zero: str = "") -> str:
        """x through Q and DQ with one scale."""
        step = scale if isinstance(scale, str) else self.real(scale)
        zero = zero or self.zero(kind)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, step, zero), step, zero)

    def codes(self, shape: tuple[int, ...], bits: int = 8) -> str:
        limit = 2 ** (bits - 1) - 1
        values = self.rng.integers(-limit, limit + 1, shape)
        return self.packed(values) if bits == 4 else self.store(values, np.int8)

    def weight(
        self, bits: int = 8, scales: str = "channel", shape: tuple[int, int] = (K, N), axis: int = 1, block: int = 128
    ) -> str:
        """A dequantized weight [K, N]: `scales` is tensor, channel (per index of `axis`) or block (along axis 0)."""
        codes = self.codes(shape, bits)
        if scales == "tensor":
            return self.op("DequantizeLinear", codes, self.real(0.01))
        if scales == "channel":
            return self.op("DequantizeLinear", codes, self.real(np.full(shape[axis], 0.01)), axis=axis)
        count = (-(-shape[0] // block), shape[1])
        return self.op("DequantizeLinear", codes, self.real(np.full(count, 0.01)), axis=0, block_size=block)

    def normal(self, *shape: int) -> str:
        return self.real(self.rng.normal(size=shape))

    def token_range(self, x: str = "x") -> str:
        """max |x| of every token, [..., 1]."""
        largest = self.op("ReduceMax", self.op("Abs", x), self.store([-1], np.int64), keepdims=1)
        return self.op("Max", largest, self.real(1e-4))

    def model(self, y: str, kind: int | None = None) -> ModelProto:
        """The model with y as its output."""
        output = helper.make_tensor_value_info(y, kind or self.kind, None)
        graph = helper.make_graph(self.nodes, "g", self.inputs, [output], self.tensors)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def save(self, y: str, path: Path, kind: int | None = None) -> Path:
        path.write_bytes(self.model(y, kind).SerializeToString())
        return path
