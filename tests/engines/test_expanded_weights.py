"""Files with 4-bit weights are opened without ONNX Runtime's detour through floats, and compute the same numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_network import SIZE, small_pixels, small_rounded

from qvggt.engines import expanded_weights
from qvggt.engines.expanded_weights import chains, expanded, replace_
from qvggt.engines.onnx_runner import OnnxRunner, import_onnxruntime
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.quant.scheme import parse_scheme


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network in w4a8, its weights outside of the file."""
    path = tmp_path_factory.mktemp("four") / "m.onnx"
    scheme = parse_scheme("w4a8")
    export_onnx(small_rounded(scheme), scheme, ExportConfig(SIZE, SIZE, external_above=1000), path)
    return path


def test_the_same_numbers_and_kernels(four_bits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = small_pixels(2)
    with OnnxRunner(four_bits, threads=1) as plain:
        assert plain.expanded is None, "too few weights to matter"
        expected, placed = plain.run_named(images), plain.describe()["placement"]
    monkeypatch.setattr(expanded_weights, "MANY", 1)
    with OnnxRunner(four_bits, threads=1) as lean:
        assert lean.expanded is not None
        assert lean.describe()["placement"] == placed
        for name, value in lean.run_named(images).items():
            assert np.array_equal(value, expected[name]), name
    assert lean.expanded is None, "is freed with the session"


def test_fp8_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scheme = tmp_path / "m.onnx", parse_scheme("w4afp8", "dynamic", ("aggregator",))
    export_onnx(small_rounded(scheme), scheme, ExportConfig(SIZE, SIZE, ("pose",), external_above=1000), path)
    with OnnxRunner(path, threads=1) as plain:
        assert plain.expanded is None
        expected = plain.run_named(small_pixels(2))["pose_enc"]
    monkeypatch.setattr(expanded_weights, "MANY", 1)
    with OnnxRunner(path, threads=1) as lean:
        assert lean.expanded is not None
        assert not lean.notes
        assert np.array_equal(lean.run_named(small_pixels(2))["pose_enc"], expected)


def test_all_of_them_are_replaced(four_bits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expanded_weights, "MANY", 1)
    before = onnx.load(four_bits, load_external_data=False)
    count = sum(tensor.data_type == TensorProto.INT4 and tensor.dims != [] for tensor in before.graph.initializer)
    assert count == 36
    assert len(list(chains(before))) == count
    lean = expanded(import_onnxruntime(), four_bits)
    assert lean is not None
    after = onnx.load_from_string(lean.model)
    assert not list(chains(after))
    assert not [tensor.name for tensor in after.graph.initializer if tensor.data_type == TensorProto.INT4]
    assert len(after.graph.node) == len(before.graph.node) - 3 * count


def test_what_something_else_reads_stays() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> weights (float[1, 2] x) => (float[2, 2] y, int8[2, 2] q)
        <int4[2, 2] w = {1, 2, 3, 4}, float[2] s = {1, 1}, float one = {1}, int8 zero = {0}> {
            f = DequantizeLinear<axis = 0>(w, s)
            t = Transpose(f)
            q = QuantizeLinear(t, one, zero)
            y = Add(x, t)
        }"""
    model = onnx.parser.parse_model(text)
    found = list(chains(model))
    assert [[node.op_type for node in nodes] for nodes in found] == [
        ["DequantizeLinear", "Transpose", "QuantizeLinear"]
    ]
    replace_(model, found, {"q": (2, 2)})
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "Transpose", "Add"]
    assert {tensor.name for tensor in model.graph.initializer} == {"w", "s", "q"}


def test_what_depends_on_an_input_is_no_weight() -> None:
    zero = helper.make_tensor("zero", TensorProto.INT8, [], [0])
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    node = helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"])
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("q", TensorProto.INT8, [1])
    graph = helper.make_graph([node], "g", [value], [result], initializer=[zero, one])
    assert not list(chains(helper.make_model(graph)))


def test_without_room_for_a_temporary_file(four_bits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(expanded_weights, "MANY", 1)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with OnnxRunner(four_bits, threads=1) as plain:
        assert plain.expanded is None
        assert plain.run_named(small_pixels(1))
