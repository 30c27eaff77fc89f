"""Types and shapes of every tensor of a model, without the bytes of its weights."""

from __future__ import annotations

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from qvggt.onnx_view.values import OUTLINE

INLINE_LIMIT = 1024  # bytes: shape inference reads small constants, larger ones are replaced by their outline
TYPE_WORDS = {  # in names such as TRT_FP8QuantizeLinear
    "FP8": TensorProto.FLOAT8E4M3FN, "INT4": TensorProto.INT4, "FP4": TensorProto.FLOAT4E2M1,
}  # fmt: skip
FOREIGN = ("uantizeLinear", "FP4DynamicQuantize")  # ends of names


def outline(proto: ModelProto) -> ModelProto:
    """A copy of a model whose large initializers are only names, types and shapes."""
    light = ModelProto(ir_version=proto.ir_version)
    light.opset_import.extend(proto.opset_import)
    light.functions.extend(proto.functions)
    graph = light.graph
    graph.name = "graph"
    for part in ("node", "input", "output", "value_info"):
        getattr(graph, part).extend(getattr(proto.graph, part))
    for tensor in proto.graph.initializer:
        if tensor.ByteSize() <= INLINE_LIMIT:
            graph.initializer.append(tensor)
            continue
        stub = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = TensorProto.EXTERNAL
        stub.external_data.add(key="location", value=OUTLINE)
    if light.functions:
        import onnx.inliner

        light = onnx.inliner.inline_local_functions(light)
    return light


def inferred(light: ModelProto) -> ModelProto:
    """With inferred types and shapes, as far as they go; rules find less where they are unknown."""
    own = light.graph
    kinds = {tensor.name: tensor.data_type for tensor in own.initializer}
    foreign = {i: as_cast for i, node in enumerate(own.node) if (as_cast := _as_cast(node, kinds)) is not None}
    known = light
    if foreign:
        known = ModelProto()
        known.CopyFrom(light)
        for index, node in foreign.items():
            known.graph.node[index].CopyFrom(node)
    try:
        known = onnx.shape_inference.infer_shapes(known, data_prop=True)
    except Exception:  # inference raises whatever its C++ side threw; a lint of a broken model should still say why
        return light
    for index in foreign:
        known.graph.node[index].CopyFrom(own.node[index])
    return known


def _as_cast(node: NodeProto, kinds: dict[str, int]) -> NodeProto | None:
    """What has the types and shapes of an operator outside of ai.onnx, of which shape inference knows nothing: of a Q
    or DQ (of NVFP4's the codes; its scales stay unknown), or of attention, whose result is as its queries.

    kinds: types of the initializers.
    """
    if (node.domain, node.op_type) == ("com.microsoft", "MultiHeadAttention"):
        return helper.make_node("Cast", node.input[:1], node.output[:1], to=TensorProto.FLOAT)
    if not node.op_type.endswith(FOREIGN) or node.domain in ("", "ai.onnx") or not 2 <= len(node.input) <= 3:
        return None
    word = next((kind for word, kind in TYPE_WORDS.items() if word in node.op_type), TensorProto.UINT8)
    if "Deq" in node.op_type:
        kind = kinds.get(node.input[1], TensorProto.FLOAT)
    else:
        kind = kinds.get(node.input[2], word) if len(node.input) > 2 else word
    return helper.make_node("Cast", node.input[:1], node.output[:1], to=kind)
