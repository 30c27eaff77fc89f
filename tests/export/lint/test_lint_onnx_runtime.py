"""QV701, QV702: what ONNX Runtime cannot open or changes, judged by ONNX Runtime; and how our runner opens it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from lint_graphs import Net
from onnx import ModelProto, TensorProto, helper

from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.export.emulation import run_model
from qvggt.export.lint import lint_model
from qvggt.target import Target

T = TensorProto
CHAINS = ["", *"RTUL", *(a + b for a, b in product("RTUL", repeat=2) if a + b != "TT"), "RF", "RTR"]


def move(net: Net, word: str, x: str) -> str:
    ints = {name: net.store(values, np.int64) for name, values in (("zero", [0]), ("one", [1]), ("all", [2, 4, -1]))}
    if word == "T":
        return net.op("Transpose", net.op("Relu", x) if x == "x" else x)
    inputs = {"R": ["all"], "U": ["zero"], "L": ["zero", "one", "one"], "F": []}[word]
    op = {"R": "Reshape", "U": "Unsqueeze", "L": "Slice", "F": "Flatten"}[word]
    return net.op(op, x, *(ints[name] for name in inputs))


def chain(words: str, end: str, kind: int = T.INT8, zero: bool = True, opset: int = 21) -> ModelProto:
    """x -> Q -> DQ -> movers -> an operator, a Q, or two operators."""
    net = Net((2, 4, 16), "f32", opset)
    step, zeros = net.real(0.05), [net.zero(kind)] if zero else []
    typed = {} if zero else {"output_dtype": kind}

    def pair(x: str) -> str:
        return net.op("DequantizeLinear", net.op("QuantizeLinear", x, step, *zeros, **typed), step, *zeros)

    y = pair("x")
    for word in words:
        y = move(net, word, y)
    if end == "Q":
        y = pair(y)
    return net.model(net.op("Add", y, y) if end == "twice" else net.op("Neg", y))


def opens(model: ModelProto) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


@pytest.mark.skipif(not ort.__version__.startswith("1.32."), reason="a fault of ONNX Runtime 1.32")
@pytest.mark.parametrize("end", ["Neg", "Q", "twice"])
def test_the_rule_is_what_onnx_runtime_does(end: str) -> None:
    models = {words: chain(words, end) for words in CHAINS if not (words in ("RR", "RU") and end == "twice")}
    models |= {f"R {kind} {zero}": chain("R", end, kind, zero) for kind in (T.INT8, T.UINT8) for zero in (True, False)}
    models["R opset 19"] = chain("R", end, opset=19)
    found = {name: not lint_model(model, Target.CPU) for name, model in models.items()}
    assert found == {name: opens(model) for name, model in models.items()}
    assert found["R"] is (end != "Neg")


def behind_relu(words: str, kind: int, zero: bool = True, rows: bool = False) -> ModelProto:
    """x -> ReLU -> R(eLU again), I(dentity), M(ax) -> Q -> DQ; T: the ReLU is read twice. rows: a scale each."""
    net = Net((2, 4), "f32", 21)
    step = net.store([0.1, 0.2], np.float32) if rows else net.real(0.1)
    axis = {"axis": 0} if rows else {}
    zeros = [net.zero(kind)] if zero else []
    if zeros and rows:
        net.tensors[-1].MergeFrom(TensorProto(dims=[2], raw_data=bytes(1 if kind == T.INT4 else 2)))
    typed = axis if zero else {"output_dtype": kind, **axis}
    relu = y = net.op("Relu", "x")
    for word in words.replace("T", ""):
        y = net.op({"R": "Relu", "I": "Identity", "M": "Max"}[word], y, *([net.real(-9.0)] if word == "M" else []))
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", y, step, *zeros, **typed), step, *zeros, **axis)
    return net.model(net.op("Add", y, net.op("Neg", relu)) if "T" in words else y)


@pytest.mark.skipif(not ort.__version__.startswith("1.32."), reason="a fault of ONNX Runtime 1.32")
def test_the_rule_is_which_relus_onnx_runtime_drops() -> None:
    kinds = (T.FLOAT8E4M3FN, T.INT4, T.INT8, T.UINT8)
    cases = list(product(("", "I", "M", "R", "T"), kinds, (True, False), (False, True)))
    models = [behind_relu(*case) for case in cases]
    x = {"x": np.full((2, 4), -0.5, np.float32)}
    wrong = [bool(run_model(model, x)[0].any()) for model in models]
    assert [bool(lint_model(model, Target.CPU)) for model in models] == wrong
    assert 0 < sum(wrong) < len(wrong) / 4
    assert all(finding.rule == "QV702" for model in models for finding in lint_model(model, Target.CPU))


def test_the_runner_opens_it_and_says_so(tmp_path: Path) -> None:
    """A network of our interface whose poses pass such a chain."""
    net = Net((1, "S", 3, 14, 14), "f32")
    net.inputs[0].name = "images"
    means = net.op("ReduceMean", "images", net.store([2, 3, 4], np.int64), keepdims=1)
    y = net.op("Reshape", net.quantized(means), net.store([1, -1, 1], np.int64))
    y = net.op("Concat", *[net.op("Neg", y)] * 9, axis=2)
    model = net.model(y)
    model.graph.node.append(helper.make_node("Identity", [y], ["pose_enc"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("pose_enc", T.FLOAT, [1, "S", 9]))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert [f.rule for f in lint_model(path, Target.CPU)] == ([] if opens(model) else ["QV701"])
    images = np.full((2, 3, 14, 14), 0.5, np.float32)
    with OnnxRunner(path) as runner:
        np.testing.assert_allclose(runner(images).pose_enc, -0.5, atol=1e-6)
        assert runner.notes or opens(model)
        assert all("without QDQPropagationTransformer" in note for note in runner.notes)
        assert runner.describe().get("notes", []) == list(runner.notes)
