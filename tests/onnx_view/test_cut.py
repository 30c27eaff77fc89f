"""One linear cut out of a file: found by its name, with its weights wherever they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qvggt import QvggtError
from qvggt.export.emulation import open_segment
from qvggt.onnx_view.cut import cut_linear, expected_in
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.metadata import written

CODES = np.arange(-32, 32, dtype=np.int8).reshape(8, 8)


def network(linears: dict[str, str] | None, codes: str = "codes") -> onnx.ModelProto:
    """Relu, then the linear "head.m" used twice, whatever its initializers are called; "f" stays float."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "rows", 8]) for name in "xy")
    nodes = [helper.make_node("Relu", ["x"], ["r"], name="relu")]
    for use, (source, result) in enumerate((("r", "h"), ("h", "z"))):
        at, read, made = f"head.iter.{use}.m", f"w{use}", f"p{use}"
        nodes.append(helper.make_node("DequantizeLinear", [codes, "s"], [read], name=f"{at}/DequantizeLinear"))
        nodes.append(helper.make_node("MatMul", [source, read], [made], name=f"{at}/MatMul"))
        nodes.append(helper.make_node("Add", [made, "bias"], [result], name=f"{at}/Add"))
    nodes.append(helper.make_node("MatMul", ["z", "float"], ["y"], name="f/MatMul"))
    tensors = [numpy_helper.from_array(CODES, codes), numpy_helper.from_array(np.float32(0.5), "s")]
    ones = {"bias": (8,), "float": (8, 8)}
    tensors += [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in ones.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    helper.set_model_props(model, {"qvggt.version": "0.1"} if linears is None else written(linears=linears))
    return model


@pytest.mark.parametrize("external", [False, True])
def test_a_cut_computes_the_linear(external: bool, tmp_path: Path) -> None:
    save = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0} if external else {}
    onnx.save(network({"head.m": "w8a16"}), tmp_path / "m.onnx", **save)
    cut = cut_linear(open_onnx(tmp_path / "m.onnx"), "head.m")
    assert [node.name for node in cut.model.graph.node] == [
        f"head.iter.0.m/{op}" for op in ("DequantizeLinear", "MatMul", "Add")
    ]
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    y = open_segment(cut.model)({cut.input: x[None]})[0]
    np.testing.assert_allclose(y, x @ (CODES * np.float32(0.5)) + 1, rtol=1e-5)


def test_names_of_initializers_do_not_matter() -> None:
    for name in ("codes", "head.m.weight_codes", "other.weight_codes"):
        assert cut_linear(Model(network(None, name)), "head.m").input == "r"


def test_a_linear_that_is_not_there() -> None:
    for path in ("f", "gone"):
        with pytest.raises(QvggtError, match=f"no nodes of {path}"):
            cut_linear(Model(network({"head.m": "w8a16"})), path)


def test_what_a_gate_must_find() -> None:
    """A module that is listed, or in the graph; of a file without a list, everything."""
    listing, silent = Model(network({"head.m": "w8a16", "lost": "w8a16"})), Model(network(None))
    assert [expected_in(listing, path) for path in ("head.m", "lost", "f", "left.out")] == [True, True, True, False]
    assert expected_in(silent, "left.out")
