"""A file cut at tensors: which nodes make a segment, and that none is left over."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qvggt.export.emulation import open_segment
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.metadata import written
from qvggt.onnx_view.segment import cut_segments, find_uses, segment_model, uncovered


def model(half: int = TensorProto.FLOAT) -> Model:
    """x -> Relu -> two uses of the linear "m", the second in a loop's second turn -> y; and a node nobody reads."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "rows", 4]) for name in "xy")
    nodes = [helper.make_node("Relu", ["x"], ["start"], name="start/Relu")]
    nodes.append(helper.make_node("Cast", ["start"], ["r"], name="start/Cast", to=half))
    for turn, (source, result) in enumerate((("r", "h"), ("h", "z"))):
        at = f"head.iter.{turn}.m"
        nodes.append(helper.make_node("MatMul", [source, "w"], [f"p{turn}"], name=f"{at}/MatMul"))
        nodes.append(helper.make_node("Add", [f"p{turn}", "b"], [result], name=f"{at}/Add"))
    nodes.append(helper.make_node("Add", ["z", "r"], ["sum"], name="head/Add"))
    nodes.append(helper.make_node("Cast", ["sum"], ["y"], name="head/Cast", to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Neg", ["h"], ["dead"], name="head/Neg"))
    kind = helper.tensor_dtype_to_np_dtype(half)
    tensors = [numpy_helper.from_array(np.full((4, 4), 1 / 3).astype(kind), "w")]
    tensors.append(numpy_helper.from_array(np.ones(4, kind), "b"))
    made = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    helper.set_model_props(made, written(version="0"))
    return Model(made)


def test_the_uses_of_a_module_are_found_with_their_ends() -> None:
    uses = {(use.path, use.call): use for use in find_uses(model(), ["head.m", "head", "start"])}
    assert set(uses) == {("head.m", 0), ("head.m", 1), ("start", 0), ("head", 0), ("head", 1)}
    assert (uses["head.m", 0].input, uses["head.m", 0].output) == ("r", "h")
    assert (uses["head.m", 1].input, uses["head.m", 1].output) == ("h", "z")
    # what is not in a turn of the loop belongs to the first
    assert [node.label for node in uses["head", 1].nodes] == ["head.iter.1.m/MatMul", "head.iter.1.m/Add"]


def test_a_module_with_two_inputs_has_none() -> None:
    (use,) = find_uses(model(), ["head"], deep=False)
    assert (use.input, use.output) == (None, None)  # it reads z, r and h; y is read by nobody


def test_segments_end_at_the_boundaries() -> None:
    file = model()
    segments = {s.target: s for s in cut_segments(file, ["r", "h", "z"])}
    assert list(segments) == ["r", "h", "z", "y"]
    assert [segments[name].feeds for name in segments] == [("x",), ("r",), ("h",), ("r", "z")]
    assert [node.label for node in segments["h"].nodes] == ["head.iter.0.m/MatMul", "head.iter.0.m/Add"]
    assert (segments["z"].path, segments["y"].path) == ("head.iter.1.m", "head")
    (whole,) = cut_segments(file, [])
    assert (whole.feeds, len(whole.nodes)) == (("x",), 8)


def test_a_node_in_no_segment_is_named() -> None:
    file = model()
    segments = cut_segments(file, ["h"])
    assert uncovered(file, (node for s in segments for node in s.nodes)) == ("head/Neg",)
    first = ("head.iter.0.m/MatMul", "head.iter.0.m/Add")
    assert uncovered(file, (n for s in segments for n in s.nodes if n.label not in first)) == (*first, "head/Neg")


@pytest.mark.parametrize("half", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_segment_is_a_model_with_fp32_ends(half: int) -> None:
    """As it rounds, and as its stored numbers say: 1/3 in the half type, but nothing after it rounded."""
    file = model(half)
    segment = next(s for s in cut_segments(file, ["r", "h", "z"]) if s.target == "z")
    made = segment_model(file, segment.nodes, {"h": (1, "rows", 4)}, "z")
    x = np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32)
    third = np.full((4, 4), 1 / 3).astype(helper.tensor_dtype_to_np_dtype(half)).astype(np.float32)
    exact = x @ third + 1
    wide = None if half == TensorProto.FLOAT else half
    np.testing.assert_allclose(open_segment(made, wide)({"h": x}), exact, rtol=1e-6, atol=1e-6)
    error = np.abs(open_segment(made)({"h": x}) - exact).max()
    if half == TensorProto.BFLOAT16:  # of fp16, ONNX Runtime takes out most of the roundings
        assert 1e-5 < error < 0.05
