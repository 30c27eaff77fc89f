"""What a file is, by its products, whatever its metadata says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from onnxruntime.quantization import quantize_dynamic
from small_network import SIZE, small_images, small_model

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.engines.builder import read_source
from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.lint import lint_model
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.graph_format import graph_format
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target


@pytest.fixture(scope="module")
def foreign(small_float_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our fp32 export, quantized by ONNX Runtime's quantizer, which copies our metadata."""
    path = tmp_path_factory.mktemp("foreign") / "int8.onnx"
    quantize_dynamic(small_float_onnx, path)
    return path


def test_the_graph_wins_over_copied_metadata(foreign: Path, small_float_onnx: Path) -> None:
    entries = {entry.key: entry.value for entry in onnx.load(foreign).metadata_props}
    assert '"bits": "fp32"' in entries["qvggt.scheme"]
    found = graph_format(open_onnx(foreign))
    assert found.name.startswith("w8a8-dynamic")
    assert found.counts["w8a8-dynamic"] > 50
    assert found.wrong.startswith("fp32 by its metadata, but ")
    assert "w8a8-dynamic in the graph" in found.wrong
    assert "\n" not in found.wrong
    float_file = graph_format(open_onnx(small_float_onnx))
    assert (float_file.name, float_file.wrong) == ("fp32", "")


def test_runner_build_and_lint_say_so(foreign: Path) -> None:
    with OnnxRunner(foreign) as runner:
        facts = runner.describe()
        runner(small_images(1).numpy())
    assert facts["scheme"].endswith("(graph)")
    assert facts["scheme"].startswith("w8a8-dynamic")
    assert facts["scheme"] in facts["label"]
    assert facts["scheme_json"] is None
    (note,) = facts["notes"]
    assert "fp32 by its metadata" in note
    source = read_source(foreign)
    assert (source.scheme, source.label) == (None, facts["scheme"])
    assert [f.rule for f in lint_model(foreign, Target.CPU)] == ["QV505"]


def edited(path: Path, **values: str) -> Model:
    model = onnx.load(path)
    for entry in model.metadata_props:
        entry.value = values.get(entry.key.removeprefix("qvggt."), entry.value)
    return Model(model)


def test_what_a_true_file_says_is_kept(small_onnx: Path) -> None:
    found = graph_format(open_onnx(small_onnx))
    assert (found.name, found.wrong, found.label("w8a8-dynamic")) == ("w8a8-dynamic", "", "w8a8-dynamic")


def test_claims_of_a_quantized_file(small_onnx: Path) -> None:
    """A list that lacks a linear, one that names another mode, and a file that lost its list."""
    model = open_onnx(small_onnx)
    listed = dict(model.metadata.linears or {})
    first = next(iter(listed))
    for linears, words in (
        ({k: v for k, v in listed.items() if k != first}, f"first {first}"),
        ({**listed, first: "w8a8-static"}, "w8a8-static there, w8a8-dynamic in the graph"),
        ({**listed, first: "w4a16"}, "w4a16 there"),
    ):
        assert words in graph_format(edited(small_onnx, linears=json.dumps(linears))).wrong
    lost = edited(small_onnx, scheme='{"bits": "fp32"}')
    del lost.proto.metadata_props[[e.key for e in lost.proto.metadata_props].index("qvggt.linears")]
    assert graph_format(lost).wrong


def contrib(op: str, **attributes: int) -> ModelProto:
    node = helper.make_node(op, ["x", "w"], ["y"], name="n", domain="com.microsoft", **attributes)
    x, y = (helper.make_tensor_value_info(n, 1, ["m", 4]) for n in "xy")
    weight = onnx.numpy_helper.from_array(np.ones((4, 4), np.uint8), "w")
    return helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]))


@pytest.mark.parametrize(
    ("op", "attributes", "name"),
    [
        ("MatMulNBits", {"bits": 4}, "w4a16"),
        ("MatMulNBits", {"bits": 8}, "w8a16"),
        ("DynamicQuantizeMatMul", {}, "w8a8-dynamic"),
        ("QLinearConv", {}, "w8a8-static"),
    ],
)
def test_operators_of_onnx_runtime(op: str, attributes: dict[str, int], name: str) -> None:
    found = graph_format(Model(contrib(op, **attributes)))
    assert (found.name, found.wrong, found.label(None)) == (name, "", f"{name} (graph)")


def test_an_online_transform_is_no_contradiction(tmp_path: Path) -> None:
    """Its float products stand under the name of the quantized linear they belong to."""
    model, scheme = small_model(seed=1), parse_scheme("w4a4")
    recipe = find_recipe("qvggt").replace(rounding="rtn")
    calibrate_(model, scheme, recipe, [small_images(2)], progress=False)
    for target in (Target.CPU, Target.TENSORRT):
        export_onnx(model, scheme, ExportConfig(SIZE, SIZE, target=target), tmp_path / "m.onnx")
        found = graph_format(open_onnx(tmp_path / "m.onnx"))
        assert (found.name, found.wrong) == ("w4a4-dynamic", "")
