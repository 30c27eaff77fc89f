"""Every file we write is legal, for the target it was written for and for TensorRT."""

from __future__ import annotations

from pathlib import Path

import pytest
from lint_graphs import K, Net
from small_network import small_images, small_rounded

from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.lint import RULES, Severity, errors, lint_model
from qvggt.export.precision import Precision
from qvggt.models.family import find_family
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph_format import graph_format
from qvggt.onnx_view.quantizer import quantizers
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target

ROOT = Path(__file__).resolve().parents[3]
SIDE = 28
CPU_FORM = ("QV310",)  # of static files: their scales per channel; TensorRT builds them, and tools/check_lint.py agrees
FORMS = [("w8a8", "dynamic"), ("w8a8", "static"), ("w6a6", "dynamic"), ("w6a6", "static"), ("w4a8", "dynamic")]
FORMS += [("w4a8", "static"), ("w4a4", "dynamic"), ("w4a4", "static"), ("w4a16", "dynamic"), ("fp32", "dynamic")]


def exported(bits: str, act: str, target: Target, precision: Precision, folder: Path) -> Path:
    scheme = parse_scheme(bits, act, ("dino", "aggregator", "camera"))
    model = small_rounded(scheme, [small_images(3, seed=1, size=SIDE)], seed=3)
    export_onnx(model, scheme, ExportConfig(SIDE, SIDE, target=target, precision=precision), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("target", [Target.CPU, Target.TENSORRT])
@pytest.mark.parametrize(("bits", "act"), FORMS)
def test_float32_networks(bits: str, act: str, target: Target, tmp_path: Path) -> None:
    path = exported(bits, act, target, Precision.FP32, tmp_path)
    assert lint_model(path, target) == []
    assert graph_format(open_onnx(path)).name == parse_scheme(bits, act).label.replace("w6", "w8")  # int8 codes
    elsewhere = [f for f in lint_model(path, Target.TENSORRT) if target is Target.TENSORRT or f.rule not in CPU_FORM]
    assert [f.line() for f in elsewhere] == []
    assert constant_products(path) == []


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
@pytest.mark.parametrize(
    ("bits", "act"), [("w8a8", "dynamic"), ("w8a8", "static"), ("w4a4", "dynamic"), ("w4a16", "dynamic")]
)
def test_half_networks(bits: str, act: str, precision: Precision, tmp_path: Path) -> None:
    path = exported(bits, act, Target.TENSORRT, precision, tmp_path)
    assert [f.line() for f in lint_model(path)] == []


@pytest.mark.parametrize(
    ("bits", "act", "storage", "found"),
    [
        ("w4a4", "dynamic", None, set()),
        ("w4a4", "static", "int4", {"QV803"}),
        ("w4a16", "dynamic", None, {"QV804"}),  # in the camera head, which is fp32
    ],
)
def test_files_for_tensorrt_itself(bits: str, act: str, storage: str | None, found: set[str], tmp_path: Path) -> None:
    """All parts quantized; what TensorRT does not document is said, by a warning."""
    scheme, path = parse_scheme(bits, act, find_family().part_names), tmp_path / "m.onnx"
    model = small_rounded(scheme, [small_images(3, seed=1, size=SIDE)], seed=3)
    config = ExportConfig(SIDE, SIDE, target=Target.TENSORRT_10, precision=Precision.FP16, storage=storage)
    export_onnx(model, scheme, config, path)
    stem = {"QV307"}  # the patch convolution is stored in 8 bits and computed in floats
    assert {f.rule for f in lint_model(path, Target.TENSORRT_10)} == found | stem
    assert errors(lint_model(path)) == []
    entries = open_onnx(path).metadata
    assert (entries.text("target"), entries.text("backend")) == ("tensorrt", "tensorrt")


def constant_products(path: Path) -> list[str]:
    """Nodes that have only constants as inputs, but for how weights are stored: Q/DQ, what stands between the two, and
    the names of a scale for each use."""
    model = open_onnx(path)
    constant = [n for n in model.nodes if n.inputs and all(n.scope.is_constant(name) for name in n.inputs if name)]
    stored = {quantizer.label for quantizer in quantizers(model)}
    between = {n.label for n in constant if n.is_op("Transpose", "Reshape", "Identity")}
    return [n.label for n in constant if n.label not in stored | between]


def test_constant_products_are_found(tmp_path: Path) -> None:
    net = Net(kind="f32")
    folded = net.op("MatMul", net.normal(2, K), net.normal(K, K))
    path = net.save(net.op("Concat", "x", folded, axis=0), tmp_path / "m.onnx")
    assert constant_products(path) == [folded.removesuffix("_out")]


def test_rules_are_documented_in_one_line_each() -> None:
    for rule in RULES.values():
        assert rule.id.startswith("QV")
        assert rule.id[2:].isdigit()
        for text in (rule.reason, rule.fix):
            assert text
            assert "\n" not in text
            assert not text.endswith(".")
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("tensorrt*.md"))
    for rule in RULES.values():
        assert f"| {rule.id} | `{rule.name}` | {rule.severity.value} | {rule.reason} |" in pages
    names = [rule.name for rule in RULES.values()]
    assert len(set(names)) == len(names)
    assert {rule.severity for rule in RULES.values()} == set(Severity)
