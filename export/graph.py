"""A small ONNX graph builder: nodes and tensors named after the module they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from qvggt.export.storage import Storage

OPSET = 21
IR_VERSION = 10

Dims = Sequence[int | str]


class GraphBuilder:
    """Collects nodes, initializers, inputs and outputs of one model (opset 21, ai.onnx only).

    A node's name is its module path and operator, `<path>/MatMul`, with `_1`, `_2`, ... for repeats; its output
    tensor carries the same name. Constants with one name are stored once.
    """

    def __init__(self, storage: Storage | None = None) -> None:
        self.storage = storage or Storage()
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
        return outputs

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """An initializer, stored once per name."""
        return name if name in self.initializers else self._keep(self.storage.tensor(name, array))

    def int4_constant(self, name: str, codes: NDArray[np.int8]) -> str:
        """An INT4 initializer of codes in [-8, 7]."""
        return name if name in self.initializers else self._keep(self.storage.tensor(name, codes, int4=True))

    def _keep(self, tensor: TensorProto) -> str:
        self.proto.graph.initializer.append(tensor)
        self.initializers[tensor.name] = self.proto.graph.initializer[-1]
        return tensor.name

    def ints(self, *values: int) -> str:
        """A shared int64 vector constant."""
        return self.constant("ints_" + "_".join(str(v).replace("-", "m") for v in values), np.array(values, np.int64))

    def reshape(self, x: str, shape: Sequence[int], path: str) -> str:
        """Reshape with ONNX rules: 0 keeps the input's dimension, one -1 takes the rest."""
        return self.op("Reshape", [x, self.ints(*shape)], path)

    def slice(self, x: str, axis: int, start: int, stop: int, path: str) -> str:
        return self.op("Slice", [x, self.ints(start), self.ints(stop), self.ints(axis)], path)

    def input(self, name: str, dims: Dims) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))
        return name

    def output(self, x: str, name: str, dims: Dims) -> None:
        """Publish tensor `x` as the graph output `name`."""
        self.nodes.append(helper.make_node("Identity", [x], [name], name=f"{name}/Identity"))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))

    def model(self, name: str, metadata: Mapping[str, str], producer_version: str) -> onnx.ModelProto:
        """The finished model; the builder is spent afterwards."""
        proto = self.proto
        proto.ir_version, proto.producer_name, proto.producer_version = IR_VERSION, "qvggt", producer_version
        proto.opset_import.append(helper.make_opsetid("", OPSET))
        proto.graph.name = name
        proto.graph.node.extend(self.nodes)
        proto.graph.input.extend(self.inputs)
        proto.graph.output.extend(self.outputs)
        helper.set_model_props(proto, dict(metadata))
        return proto
