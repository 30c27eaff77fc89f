"""What a graph asks of a builder: quantized linears, attention, float type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.metadata import written
from qvggt.onnx_view.network_facts import NetworkFacts, QuantizedLinear, network_facts

FLOAT, INT8, INT4 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT4


def tensor(name: str, dims: tuple[int, ...], kind: int = FLOAT) -> TensorProto:
    if kind == INT4:
        return TensorProto(name=name, dims=dims, data_type=INT4, raw_data=bytes((int(np.prod(dims)) + 1) // 2))
    array = np.zeros(dims, helper.tensor_dtype_to_np_dtype(kind))
    return numpy_helper.from_array(array, name)


def facts(nodes: list[Any], tensors: list[TensorProto], listed: dict[str, str] | None = None) -> NetworkFacts:
    """Of a file that lists its quantized modules, or of another exporter's."""
    x = helper.make_tensor_value_info("x", FLOAT, [1, "frames", 256])
    y = helper.make_tensor_value_info("y", FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors))
    helper.set_model_props(model, {} if listed is None else written(linears=listed))
    return network_facts(Model(model))


def node(op: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=name or f"n.{output}", **attributes)


ONE = tensor("one", ())
QUANTIZED = [node("QuantizeLinear", ["x", "one", "zero"], "q"), node("DequantizeLinear", ["q", "one", "zero"], "xd")]


def linear(nodes: list[Any], tensors: list[TensorProto], listed: dict[str, str] | None = None) -> QuantizedLinear:
    (found,) = facts(nodes, [ONE, *tensors], listed).linears
    return found


@pytest.mark.parametrize(
    ("weight", "activation", "wanted"),
    [
        (INT8, INT8, "INT8 GEMM"),
        (INT4, INT8, "INT8 GEMM"),
        (INT4, INT4, "INT4 GEMM"),
        (INT8, INT4, "INT8 GEMM"),
        (INT4, None, "INT4 weight-only"),
        (INT8, None, "INT8 weight-only"),
    ],
)
def test_wanted_kernels(weight: int, activation: int | None, wanted: str) -> None:
    weights = [tensor("m.weight_codes", (256, 512), weight), tensor("s", (2, 512))]
    dequantize = node("DequantizeLinear", ["m.weight_codes", "s"], "w", axis=0, block_size=128)
    product = node("MatMul", ["x" if activation is None else "xd", "w"], "y", "m/MatMul")
    zero = [] if activation is None else [tensor("zero", (), activation)]
    found = linear([*(QUANTIZED if zero else []), dequantize, product], [*weights, *zero], {"m": "any"})
    assert (found.path, found.nodes, found.weight_nodes) == ("m", ("m/MatMul",), ("n.w",))
    assert (found.inner, found.outer, found.block, found.wanted) == (256, 512, 128, wanted)


def test_a_weight_stored_in_four_bits_and_multiplied_in_eight() -> None:
    """INT4 -> DQ -> Transpose -> Q(int8) -> DQ: the container next to the product decides."""
    nodes = [
        *QUANTIZED,
        node("DequantizeLinear", ["m.weight_codes", "one"], "a"),
        node("Transpose", ["a"], "b"),
        node("QuantizeLinear", ["b", "one", "zero"], "c"),
        node("DequantizeLinear", ["c", "one"], "d"),
        node("MatMul", ["xd", "d"], "y", "m/MatMul"),
    ]
    found = linear(nodes, [tensor("zero", (), INT8), tensor("m.weight_codes", (512, 256), INT4)], {"m": "any"})
    assert (found.path, found.weight, found.wanted) == ("m", "INT8", "INT8 GEMM")
    assert found.weight_nodes == ("n.d", "n.c", "n.a")
    assert (found.inner, found.outer) == (256, 512)


def test_foreign_graphs() -> None:
    """A float weight quantized in the graph, a Gemm with transB, an activation reshaped after its quantization."""
    nodes = [
        *QUANTIZED,
        node("Reshape", ["xd", "shape"], "xr"),
        node("QuantizeLinear", ["w", "one", "zero"], "wq"),
        node("DequantizeLinear", ["wq", "one", "zero"], "wd"),
        node("Gemm", ["xr", "wd"], "y", transB=1),
    ]
    tensors = [tensor("zero", (), INT8), tensor("w", (512, 256)), tensor("shape", (2,), TensorProto.INT64)]
    found = linear(nodes, tensors)
    assert (found.path, found.inner, found.outer) == ("n.y", 256, 512)
    assert (found.weight, found.activation, found.block) == ("INT8", "INT8", None)


@pytest.mark.parametrize(("op", "dims"), [("Conv", (64, 32, 3, 3)), ("ConvTranspose", (32, 64, 3, 3))])
def test_convolutions(op: str, dims: tuple[int, ...]) -> None:
    product = node(op, ["xd", "w"], "y", f"h/{op}")
    nodes = [*QUANTIZED, node("DequantizeLinear", ["h.weight_codes", "one"], "w"), product]
    found = linear(nodes, [tensor("zero", (), INT8), tensor("h.weight_codes", dims, INT8)], {"h": "any"})
    assert (found.path, found.wanted) == ("h", "INT8 conv")
    assert (found.inner, found.outer) == (32 * 9, 64)


def test_one_module_used_twice_is_one_linear() -> None:
    weights = [tensor("m.weight_codes", (256, 256), INT8), tensor("s", (256,))]
    nodes = [
        node("DequantizeLinear", ["m.weight_codes", "s"], "w1"),
        node("MatMul", ["x", "w1"], "h", "head.iter.0.m/MatMul"),
        node("DequantizeLinear", ["m.weight_codes", "s"], "w2"),
        node("MatMul", ["h", "w2"], "y", "head.iter.1.m/MatMul"),
    ]
    found = linear(nodes, weights, {"head.m": "any"})
    assert (found.path, found.weight_nodes) == ("head.m", ("n.w1", "n.w2"))
    assert found.nodes == ("head.iter.0.m/MatMul", "head.iter.1.m/MatMul")
    assert [other.path for other in facts(nodes, weights).linears] == list(found.nodes), "of another exporter"


def test_products_of_two_computed_tensors_are_no_linears() -> None:
    assert facts([node("MatMul", ["x", "x"], "y")], []) == NetworkFacts({"x": (1, None, 256)}, (), (), {})


def test_a_linear_the_file_lists_as_quantized_and_holds_as_floats() -> None:
    path = "aggregator.frame_blocks.0.mlp.fc1"
    nodes = [node("MatMul", ["x", "w"], "y", f"{path}/MatMul")]
    tensors = [ONE, tensor("w", (256, 512))]
    (found,) = facts(nodes, tensors, {path: "w4a4-dynamic"}).linears
    assert (found.path, found.weight, found.wanted) == (path, "fp32", "w4a4-dynamic GEMM")
    assert (found.nodes, found.inner, found.outer) == ((f"{path}/MatMul",), 256, 512)
    assert facts(nodes, tensors, {}).linears == facts(nodes, tensors).linears == ()
    # another linear of its format says which kernel it misses
    nodes += [node("DequantizeLinear", ["c", "s"], "d", axis=0, block_size=128), node("MatMul", ["x", "d"], "z", "m/y")]
    tensors += [tensor("c", (256, 512), INT4), tensor("s", (2, 512))]
    first, second = facts(nodes, tensors, {path: "w4a16", "m": "w4a16"}).linears
    assert (first.wanted, first.weight, second.weight) == ("INT4 weight-only", "fp32", "INT4")


def test_a_linear_the_file_lists_and_lacks() -> None:
    product = node("MatMul", ["x", "w"], "y", "a/MatMul")
    found = linear([product], [tensor("w", (256, 512))], {"b": "w8a8-static"})
    assert (found.path, found.nodes, found.wanted) == ("b", (), "w8a8-static GEMM")


def test_products_of_an_online_rotation_are_not_the_linear() -> None:
    """They bear its name, and their constants are floats."""
    nodes = [
        node("MatMul", ["x", "r"], "xr", "m/MatMul"),
        node("DequantizeLinear", ["c", "one"], "w"),
        node("MatMul", ["xr", "w"], "y", "m/MatMul_1"),
    ]
    found = linear(nodes, [tensor("r", (256, 256)), tensor("c", (256, 512), INT8)], {"m": "any"})
    assert (found.nodes, found.outer) == (("m/MatMul_1",), 512)


def test_a_file_of_ours_without_the_list() -> None:
    """As version 0.1 wrote it: what the graph shows is quantized, named after its nodes."""
    nodes = [node("DequantizeLinear", ["c", "one"], "w"), node("MatMul", ["x", "w"], "y", "head.iter.0.m/MatMul")]
    x, y = (helper.make_tensor_value_info(name, FLOAT, None) for name in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [ONE, tensor("c", (256, 512), INT8)]))
    helper.set_model_props(model, {"qvggt.version": "0.1"})
    assert [found.path for found in network_facts(Model(model)).linears] == ["head.m"]


def test_float_types() -> None:
    half = numpy_helper.from_array(np.zeros((256, 8), np.float16), "h")
    brain = numpy_helper.from_array(np.zeros((256, 8), ml_dtypes.bfloat16), "b")
    big, unused = tensor("f", (256, 512)), tensor("unused", (256, 4096), TensorProto.DOUBLE)
    assert facts([node("MatMul", ["x", "f"], "y")], [big, unused]).float_type == "fp32"
    assert facts([node("MatMul", ["x", "h"], "z"), node("MatMul", ["x", "f"], "y")], [half, big]).float_type == "fp16"
    assert facts([node("MatMul", ["x", "b"], "y")], [brain]).float_type == "bf16"
    assert facts([node("Relu", ["x"], "y")], []).float_type == "unknown"
    cast = [node("Cast", ["f"], "c", to=TensorProto.FLOAT16), node("MatMul", ["x", "c"], "y")]
    assert facts(cast, [big]).products == {"fp16": 256 * 512}
    scale = numpy_helper.from_array(np.ones((), np.float16), "s")
    dequantized = [node("DequantizeLinear", ["i", "s"], "w"), node("MatMul", ["x", "w"], "y")]
    assert facts(dequantized, [tensor("i", (256, 4), INT8), scale]).products == {"fp16": 1024}


def test_the_exporters_file(small_onnx: Path) -> None:
    file = open_onnx(small_onnx)
    found = network_facts(file)
    assert file.metadata.linears == {v.path: "w8a8-dynamic" for v in found.linears}
    assert len(found.linears) == 36
    assert {v.wanted for v in found.linears} == {"INT8 GEMM"}
    assert all(v.path.startswith("aggregator.") for v in found.linears)
    assert found.inputs == {"images": (1, None, 3, 56, 56)}
    assert len(found.attentions) == 9 + 4  # blocks, and the refinements of the camera head
    first = found.attentions[0]
    assert first.scores == "aggregator.patch_embed.blocks.0.attn.scores/MatMul"
    assert first.context == "aggregator.patch_embed.blocks.0.attn.context/MatMul"
