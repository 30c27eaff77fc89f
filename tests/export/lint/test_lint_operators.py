"""QV60x, each on a graph that breaks it, with what TensorRT-RTX makes of that graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from lint_graphs import MS, K, N, Net
from onnx import ModelProto, TensorProto
from rtx import Build, BuildAll, Lint

from qvggt.export.lint import lint_model
from qvggt.export.lint.operators import REDUCTIONS, UNSUPPORTED

T = TensorProto
ATTRIBUTES: dict[str, dict[str, Any]] = {"LinearAttention": {"q_num_heads": 1, "kv_num_heads": 1}}
MISSING = ("false", "Plugin not found", "failed to load", "not found in plugin", "not found in the plugin")


def test_operators_without_importer(rules: Lint, build_all: BuildAll) -> None:
    """Refused for want of an importer or plugin, before any look at inputs and attributes."""
    models = {}
    for op in sorted(UNSUPPORTED - {"NonMaxSuppression"}):
        if onnx.defs.has(op):  # some are younger than the oldest onnx we take
            schema = onnx.defs.get_schema(op)
            net = Net((4, 4), "f32", opset=max(21, schema.since_version))
            y = net.op(op, *["x"] * schema.min_input, outputs=max(1, schema.min_output), **ATTRIBUTES.get(op, {}))
            models[op] = net.model(y)
    assert len(models) > 40
    assert [op for op, model in models.items() if "QV601" not in rules(model)] == []
    verdicts = dict(zip(models, build_all(list(models.values())), strict=True))
    refused = {op for op, v in verdicts.items() if not v.parsed and any(text in v.text for text in MISSING)}
    assert set(models) - refused == set()


def test_non_max_suppression_has_no_kernel(rules: Lint, build: Build) -> None:
    net = Net((1, 16, 4), "f32")
    scores = net.graph_input("scores", (1, 1, 16))
    limits = [net.store([3], np.int64), net.store([0.5], np.float32), net.store([0.0], np.float32)]
    model = net.model(net.op("NonMaxSuppression", "x", scores, *limits), T.INT64)
    assert rules(model) == {"QV601"}
    verdict = build(model)
    assert verdict.parsed
    assert not verdict.built


@pytest.mark.parametrize("op", ["Relu", "Gelu", "Softmax", "Trilu", "CumSum", "TopK"])
def test_operators_with_importer_are_not_on_the_list(op: str, rules: Lint) -> None:
    assert op not in UNSUPPORTED
    net = Net((4, 4), "f32")
    extra = [net.store([0 if op == "CumSum" else 2], np.int64)] if op in ("CumSum", "TopK") else []
    model = net.model(net.op(op, "x", *extra, outputs=2 if op == "TopK" else 1))
    assert rules(model) == set()


@pytest.mark.parametrize(
    ("op", "inputs"), [("FastGelu", 1), ("QuickGelu", 1), ("SkipLayerNormalization", 3), ("FusedMatMul", 2)]
)
def test_contrib_operators(op: str, inputs: int, rules: Lint, build: Build) -> None:
    """What ONNX Runtime's optimizer writes above its basic level."""
    net = Net((K, K))
    model = net.model(net.op(op, *["x"] * inputs, **MS))
    assert rules(model) == {"QV602"}
    assert "Plugin not found" in build(model).text


def test_contrib_attention_crashes_the_parser(rules: Lint, build: Build) -> None:
    net = Net((1, "m", K))
    model = net.model(net.op("MultiHeadAttention", "x", "x", "x", num_heads=4, **MS))
    assert rules(model) == {"QV602"}
    assert build(model).text == "crash"


@pytest.mark.parametrize("domain", ["my.ops", ""])
def test_unknown_operators(domain: str, rules: Lint, build: Build) -> None:
    net = Net()
    model = net.model(net.op("NoSuchOp", "x", domain=domain))
    assert rules(model) == {"QV602"}
    assert "Plugin not found" in build(model).text


def test_a_namesake_in_another_domain_is_taken_for_the_standard_operator(rules: Lint, build: Build) -> None:
    net = Net()
    model = net.model(net.op("Relu", "x", domain="my.ops"))
    assert rules(model) == {"QV602"}
    assert build(model).built


@pytest.mark.parametrize("form", ["Gelu", "qdq", "SimplifiedLayerNormalization"])
def test_contrib_operators_that_build(form: str, rules: Lint, build: Build) -> None:
    net = Net()
    if form == "Gelu":
        y = net.op("Gelu", "x", **MS)
    elif form == "qdq":
        step, zero = net.real(0.05), net.zero(T.INT8)
        x = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", step, zero, **MS), step, zero, **MS)
        y = net.op("MatMul", x, net.weight(scales="tensor"))
    else:
        y = net.op("SimplifiedLayerNormalization", "x", net.real(np.ones(K)), axis=-1)
    model = net.model(y)
    assert rules(model) == set()
    verdict = build(model)
    assert verdict.built
    assert verdict.gemms("Int8") == (form == "qdq")


def test_contrib_qdq_is_checked_like_the_standard_one(rules: Lint, build: Build) -> None:
    net = Net()
    step, zero = net.real(0.05), net.store(3, np.int8)
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", step, zero, **MS), step, zero, **MS)
    model = net.model(net.op("MatMul", x, net.weight(scales="tensor")))
    assert rules(model) == {"QV101"}
    assert not build(model).parsed


def test_local_functions_are_looked_into(rules: Lint) -> None:
    """As torch.onnx writes them: the node of another domain is defined in the file."""
    net = Net((4, 4), "f32")
    model = net.model(net.op("Wrapped", "x", domain="local"))
    inner = onnx.helper.make_node("NonZero", ["a"], ["b"], name="inside")
    opset = [onnx.helper.make_opsetid("", 21)]
    model.functions.append(onnx.helper.make_function("local", "Wrapped", ["a"], ["b"], [inner], opset))
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    assert rules(model) == {"QV601"}


def test_branches_are_looked_into(rules: Lint, build: Build) -> None:
    net = Net((4, 4), "f32")
    output = onnx.helper.make_tensor_value_info("b", T.FLOAT, None)
    branches = []
    for op in ("Det", "Identity"):
        node = onnx.helper.make_node(op, ["x"], ["b"], name=f"{op}_inside")
        branches.append(onnx.helper.make_graph([node], op, [], [output]))
    condition = net.op("Cast", net.op("ReduceSum", "x", keepdims=0), to=T.BOOL)
    model = net.model(net.op("If", condition, then_branch=branches[0], else_branch=branches[1]))
    assert [f.node for f in lint_model(model)] == ["Det_inside"]
    assert not build(model).parsed


def test_branches_see_the_constants_around_them(rules: Lint, build: Build) -> None:
    net = Net((4, 4), "f32")
    step, zero = net.real(0.05), net.store(3, np.int8)
    output = onnx.helper.make_tensor_value_info("b", T.FLOAT, None)
    inside = [
        onnx.helper.make_node("QuantizeLinear", ["x", step, zero], ["q"], name="inside"),
        onnx.helper.make_node("DequantizeLinear", ["q", step], ["b"], name="back"),
    ]
    branches = [onnx.helper.make_graph(inside, "then", [], [output])]
    branches.append(onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["b"])], "else", [], [output]))
    condition = net.op("Cast", net.op("ReduceSum", "x", keepdims=0), to=T.BOOL)
    model = net.model(net.op("If", condition, then_branch=branches[0], else_branch=branches[1]))
    assert [(f.rule, f.node) for f in lint_model(model)] == [("QV101", "inside")]
    assert "Non-zero zero point" in build(model).text


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialiased_resize(mode: str, rules: Lint, build: Build) -> None:
    def resize(**options: int) -> ModelProto:
        net = Net((1, 3, 14, 14))
        return net.model(net.op("Resize", "x", "", "", net.store([1, 3, 7, 7], np.int64), mode=mode, **options))

    assert rules(resize(antialias=1)) == {"QV603"}
    assert "Antialiasing is not supported" in build(resize(antialias=1)).text
    assert rules(resize()) == set()
    assert build(resize()).built


def attention(kind: str) -> ModelProto:
    net = Net((1, 4, "n", 64), kind, opset=23)
    names = [net.graph_input(name, (1, 4, "n", 64)) for name in ("k", "v")]
    return net.model(net.op("Attention", "x", *names))


def test_attention_in_float32(rules: Lint, build: Build) -> None:
    assert rules(attention("f32")) == {"QV604"}
    assert not build(attention("f32")).built
    assert rules(attention("f16")) == set()
    assert build(attention("f16")).built


def test_gemm_of_rank_3(rules: Lint, build: Build) -> None:
    net = Net(("b", "m", K))
    model = net.model(net.op("Gemm", "x", net.normal(K, N)))
    assert rules(model) == {"QV605"}
    assert "GEMM must have 2D inputs" in build(model).text


def form(op: str) -> ModelProto:
    net = Net((1, 3, 14, 14), "f32")
    if op in ("AveragePool", "MaxPool"):
        y = net.op(op, "x", kernel_shape=[2, 2], dilations=[2, 2])
    elif op == "MaxPool indices":
        y = net.op("MaxPool", "x", kernel_shape=[2, 2], outputs=2)
    elif op == "BatchNormalization":
        y = net.op(op, "x", *(net.normal(3) for _ in range(4)), training_mode=1, outputs=3)
    elif op == "LayerNormalization":
        y = net.op(op, "x", net.normal(14), outputs=2)
    elif op == "ScatterND":
        y = net.op(op, "x", net.store([[0]], np.int64), net.normal(1, 3, 14, 14), reduction="add")
    elif op == "ScatterElements":
        index = net.store(np.zeros((1, 3, 14, 14)), np.int64)
        y = net.op(op, "x", index, net.normal(1, 3, 14, 14), reduction="mul")
    elif op == "Mod":
        y = net.op(op, "x", net.real(2.0))
    elif op == "Resize crop":
        scales = net.store([1, 1, 2, 2], np.float32)
        region = net.store([0, 0, 0.2, 0.2, 1, 1, 0.8, 0.8], np.float32)
        y = net.op("Resize", "x", region, scales, mode="linear", coordinate_transformation_mode="tf_crop_and_resize")
    elif op == "Resize policy":
        size = net.store([1, 3, 20, 30], np.int64)
        y = net.op("Resize", "x", "", "", size, mode="linear", keep_aspect_ratio_policy="not_larger")
    else:
        y = net.op(op, "x", net.graph_input("axes", (1,), T.INT64))
    return net.model(y)


FORMS = ("AveragePool", "MaxPool", "MaxPool indices", "BatchNormalization", "LayerNormalization", "Mod", "Resize crop")
FORMS += ("Resize policy", "ScatterND", "ScatterElements", "Squeeze", "Unsqueeze", *sorted(REDUCTIONS))


def test_forms_of_operators(build_all: BuildAll, rules: Lint) -> None:
    models = {op: form(op) for op in FORMS}
    assert {op: rules(model) for op, model in models.items()} == {op: {"QV606"} for op in FORMS}
    verdicts = build_all(list(models.values()))
    assert [op for op, verdict in zip(models, verdicts, strict=True) if verdict.parsed] == []


def test_attention_that_returns_its_cache(rules: Lint, build: Build) -> None:
    net = Net((1, 4, 16, 64), opset=23)
    names = [net.graph_input(name, (1, 4, 16, 64)) for name in ("k", "v", "pk", "pv")]
    model = net.model(net.op("Attention", "x", names[0], names[1], "", *names[2:], outputs=3))
    assert rules(model) == {"QV606"}
    assert "only supports Attention nodes with one output" in build(model).text
