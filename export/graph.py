"""A small ONNX graph builder: nodes and tensors named after the module they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from qvggt.export.precision import Precision, rounded
from qvggt.export.storage import Storage

OPSET, IR_VERSION = 21, 10
FP4_OPSET, FP4_IR_VERSION = 23, 11  # of graphs with FP4 in them, which earlier ones do not know

FLOAT_TYPES = {p.onnx for p in Precision}

Dims = Sequence[int | str]


class GraphBuilder:
    """Collects nodes, initializers, inputs and outputs of one model (opset 21, 23 with FP4 in it).

    A node's name is its module path and operator, `<path>/MatMul`, with `_1`, `_2`, ... for repeats; its output
    tensor carries the same name. Constants with one name are stored once. `precision` is the network's float type;
    tensors of other float types are islands, entered and left by `cast`.
    """

    def __init__(
        self,
        storage: Storage | None = None,
        precision: Precision = Precision.FP32,
        fused_attention: bool = False,
        int8_storage: bool = False,
    ) -> None:
        self.storage = storage or Storage()
        self.int8_storage = int8_storage  # of the 4-bit weights of integer products
        self.fused_attention = fused_attention  # com.microsoft's operator instead of products and Softmax
        self.precision = precision
        self.types: dict[str, int] = {}  # TensorProto element type of every tensor
        self.nodes: list[NodeProto] = []
        self.proto = onnx.ModelProto()  # holds the initializers from the start: a copy at the end would double the RAM
        self.initializers: dict[str, TensorProto] = {}
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self._names: Counter[str] = Counter()

    def op(self, op_type: str, inputs: Sequence[str], path: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self.ops(op_type, inputs, path, 1, **attributes)[0]

    def ops(self, op_type: str, inputs: Sequence[str], path: str, count: int, **attributes: Any) -> list[str]:
        """Add a node with `count` outputs; returns their names."""
        name = f"{path}/{op_type}"
        repeat = self._names[name]
        self._names[name] += 1
        name = f"{name}_{repeat}" if repeat else name
        outputs = [name] if count == 1 else [f"{name}:{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, name=name, **attributes))
        dtype = self._type(op_type, inputs, attributes)
        self.types.update(dict.fromkeys(outputs, dtype))
        if attributes.get("domain"):  # no shape inference knows the operator, and what follows needs its type
            self.proto.graph.value_info.extend(helper.make_tensor_value_info(o, dtype, None) for o in outputs)
        return outputs

    def _type(self, op_type: str, inputs: Sequence[str], attributes: Mapping[str, Any]) -> int:
        """Element type of a node's outputs; TypeError where float types meet without a cast."""
        if op_type == "Cast":
            return int(attributes["to"])
        if op_type == "Shape":
            return int(TensorProto.INT64)
        dtypes = [self.types[name] for name in inputs if name]
        if op_type == "QuantizeLinear":
            return dtypes[2] if len(dtypes) > 2 else int(attributes["output_dtype"])
        if op_type == "DequantizeLinear":
            return dtypes[1]
        if len(set(dtypes) & FLOAT_TYPES) > 1:
            names = ", ".join(f"{name} {TensorProto.DataType.Name(self.types[name])}" for name in inputs if name)
            raise TypeError(f"{op_type} of {names}: cast one of them first")
        return dtypes[0]

    def precision_of(self, x: str) -> Precision:
        """Float type of a tensor."""
        return next(p for p in Precision if p.onnx == self.types[x])

    def cast(self, x: str, precision: Precision, path: str) -> str:
        """x in another float type; x itself where it has it already."""
        return x if self.types[x] == precision.onnx else self.op("Cast", [x], path, to=precision.onnx)

    def real(self, name: str, array: NDArray[Any], precision: Precision | None = None) -> str:
        """A float initializer in the network's type, or another; stored once per name and type."""
        precision = precision or self.precision
        if self.types.get(name, precision.onnx) != precision.onnx:
            name = f"{name}_{precision.value}"
        return name if name in self.initializers else self.constant(name, rounded(name, array, precision))

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """An initializer, stored once per name."""
        return name if name in self.initializers else self._keep(self.storage.tensor(name, array))

    def _keep(self, tensor: TensorProto) -> str:
        self.proto.graph.initializer.append(tensor)
        self.initializers[tensor.name] = self.proto.graph.initializer[-1]
        self.types[tensor.name] = tensor.data_type
        return tensor.name

    def ints(self, *values: int) -> str:
        """A shared int64 vector constant."""
        return self.constant("ints_" + "_".join(str(v).replace("-", "m") for v in values), np.array(values, np.int64))

    def reshape(self, x: str, shape: Sequence[int], path: str) -> str:
        """Reshape with ONNX rules: 0 keeps the input's dimension, one -1 takes the rest."""
        return self.op("Reshape", [x, self.ints(*shape)], path)

    def slice(self, x: str, axis: int, start: int, stop: int, path: str) -> str:
        return self.op("Slice", [x, self.ints(start), self.ints(stop), self.ints(axis)], path)

    def input(self, name: str, dims: Dims, precision: Precision = Precision.FP32) -> str:
        """An input: fp32 unless said otherwise, whatever the network's float type."""
        self.types[name] = precision.onnx
        self.inputs.append(helper.make_tensor_value_info(name, precision.onnx, list(dims)))
        return name

    def output(self, x: str, name: str, dims: Dims, precision: Precision = Precision.FP32) -> None:
        """Publish tensor `x` as the graph output `name`, fp32 unless said otherwise."""
        x = self.cast(x, precision, name)
        self.nodes.append(helper.make_node("Identity", [x], [name], name=f"{name}/Identity"))
        self.outputs.append(helper.make_tensor_value_info(name, precision.onnx, list(dims)))

    def model(self, name: str, metadata: Mapping[str, str], producer_version: str) -> onnx.ModelProto:
        """The finished model; the builder is spent afterwards."""
        proto, fp4 = self.proto, TensorProto.FLOAT4E2M1 in self.types.values()
        proto.producer_name, proto.producer_version = "qvggt", producer_version
        proto.ir_version = FP4_IR_VERSION if fp4 else IR_VERSION
        proto.opset_import.append(helper.make_opsetid("", FP4_OPSET if fp4 else OPSET))
        for domain in sorted({node.domain for node in self.nodes} - {""}):
            proto.opset_import.append(helper.make_opsetid(domain, 1))
        proto.graph.name = name
        proto.graph.node.extend(self.nodes)
        proto.graph.input.extend(self.inputs)
        proto.graph.output.extend(self.outputs)
        helper.set_model_props(proto, dict(metadata))
        return proto
