"""A model whose FP4 (E2M1) is written out in operators that every runtime has: for those without FP4 kernels, as ONNX
Runtime's CPU.

Codes become FP8 (E4M3), which holds every value of FP4, so that scales, blocks and DequantizeLinear stay as they are.
Stored codes are read where they lie, as the numbers of 16 values; of QuantizeLinear the rounding is spelt out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qvggt.errors import QvggtError
from qvggt.onnx_view.quantizer import DEQUANTIZE, FP4, FP8, QUANTIZE

VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)  # by code; with the sign bit the same below 0
HIGHEST = float(VALUES[-1])
SPACINGS = ((2.0, 0.5), (4.0, 1.0), (8.0, 2.0))  # magnitudes up to which neighbours are so far apart
PREFIX = "qvggt:fp4"
TABLE, LAST = f"{PREFIX}/values", f"{PREFIX}/last"


def has_fp4(model: ModelProto) -> bool:
    """Whether the main graph stores or makes FP4 codes."""
    stored = any(tensor.data_type == FP4 for tensor in model.graph.initializer)
    return stored or any(_makes_fp4(node, {}) for node in model.graph.node)


def without_fp4(model: ModelProto) -> ModelProto:
    """A copy that computes the same numbers without FP4 in its main graph; external data is shared with it.

    QvggtError for blocks along another axis than the last.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:]
    del graph.value_info[:]  # says FP4 of what is FP8 here
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    codes = {name: f"{name}/{PREFIX}" for name, kind in types.items() if kind == FP4}
    for tensor in graph.initializer:
        if tensor.data_type == FP4:
            tensor.data_type = TensorProto.UINT4  # the same bytes
            graph.node.extend(_stored(tensor.name, codes[tensor.name]))
    for node in model.graph.node:
        if _makes_fp4(node, types):
            graph.node.extend(_quantized(node))
            continue
        copy = graph.node.add()
        copy.CopyFrom(node)
        if node.op_type == DEQUANTIZE and any(name in codes for name in node.input[2:]):
            del copy.input[2:]  # a zero point: FP4 has none but 0
        for index, name in enumerate(copy.input):
            copy.input[index] = codes.get(name, name)
    numbers = {1.0, -HIGHEST, HIGHEST, *(value for pair in SPACINGS for value in pair)}
    constants = {_constant(value): np.array(value, np.float32) for value in sorted(numbers)}
    constants |= {TABLE: np.concatenate([VALUES, -VALUES]), LAST: np.array([-1], np.int64)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return result


def _makes_fp4(node: NodeProto, types: dict[str, int]) -> bool:
    if node.op_type != QUANTIZE:
        return False
    said = next((a.i for a in node.attribute if a.name == "output_dtype"), 0)
    return FP4 in (said, types.get(node.input[2]) if len(node.input) > 2 else None)


def _constant(value: float) -> str:
    return f"{PREFIX}/{value:g}"


class _Chain:
    """Nodes one after another, named `<name>/qvggt:fp4/<count>`."""

    def __init__(self, name: str) -> None:
        self.name, self.nodes = name, list[NodeProto]()

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: int) -> str:
        name = f"{self.name}/{PREFIX}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name


def _stored(name: str, output: str) -> Iterator[NodeProto]:
    """Codes of an initializer as numbers 0 to 15 -> their values in FP8.

    Through DequantizeLinear, which ONNX Runtime leaves for when the model runs: what it computes beforehand it keeps,
    and here that would be four bytes a weight.
    """
    chain = _Chain(name)
    index = chain.op("Cast", chain.op("DequantizeLinear", name, _constant(1)), to=TensorProto.INT32)
    chain.op("Cast", chain.op("Gather", TABLE, index), output=output, to=FP8)
    return iter(chain.nodes)


def _quantized(node: NodeProto) -> Iterator[NodeProto]:
    """QuantizeLinear to FP4 in floats: x over its scale, held to the ends, rounded to half-even in steps of what is
    between neighbours there."""
    chain = _Chain(node.name or node.output[0])
    x, scale = (chain.op("Cast", name, to=TensorProto.FLOAT) for name in node.input[:2])
    numbers = {a.name: a.i for a in node.attribute}
    shape = chain.op("Shape", x)
    if numbers.get("block_size", 0):
        if (axis := numbers.get("axis", 1)) != -1:
            raise QvggtError(f"{chain.name}: FP4 in blocks along axis {axis}, expected -1; export again")
        blocks = chain.op("Concat", chain.op("Shape", scale), LAST, axis=0)
        x, scale = chain.op("Reshape", x, blocks), chain.op("Unsqueeze", scale, LAST)
    x = chain.op("Clip", chain.op("Div", x, scale), _constant(-HIGHEST), _constant(HIGHEST))
    magnitude, step = chain.op("Abs", x), _constant(SPACINGS[-1][1])
    for end, spacing in SPACINGS[-2::-1]:
        step = chain.op("Where", chain.op("Less", magnitude, _constant(end)), _constant(spacing), step)
    x = chain.op("Mul", chain.op("Round", chain.op("Div", x, step)), step)
    chain.op("Cast", chain.op("Reshape", x, shape), output=node.output[0], to=FP8)
    return iter(chain.nodes)
