"""QV80x: INT4 that TensorRT-RTX builds and TensorRT's documentation does not have; TensorRT itself was not run."""

from __future__ import annotations

from collections.abc import Callable

import float_graphs
import numpy as np
import pytest
from lint_graphs import K, N, Net
from onnx import ModelProto, TensorProto
from rtx import Build

from qvggt.export.lint import RULES, Finding, lint_model
from qvggt.export.lint.rule import DOCUMENTED, UNTRIED
from qvggt.target import Target


def proper(model: ModelProto) -> set[str]:
    return {finding.rule for finding in lint_model(model, Target.TENSORRT_10)}


def weight_only(block: int = 128, scales: str = "block", kind: str = "f16", axis: int = 1) -> ModelProto:
    net = Net(kind=kind)
    return net.model(net.op("MatMul", "x", net.weight(4, scales, block=block, axis=axis)))


def stored_transposed(block: int) -> ModelProto:
    net = Net()
    codes, scale = net.codes((N, K), 4), net.real(np.full((N, K // block), 0.01))
    weight = net.op("DequantizeLinear", codes, scale, axis=1, block_size=block)
    return net.model(net.op("MatMul", "x", net.op("Transpose", weight, perm=[1, 0])))


def along_the_first_of_three(block: int) -> ModelProto:
    net = Net((1, "m", 4))
    codes = net.packed(net.rng.integers(-7, 8, (128, 4, 8)))
    weight = net.op("DequantizeLinear", codes, net.real(np.full((2, 4, 8), 0.01)), axis=0, block_size=block)
    return net.model(net.op("MatMul", "x", weight))


def requantized(blocks: bool = True) -> ModelProto:
    """INT4 -> DQ -> Transpose -> Q -> DQ under INT8 activations, as qvggt export --storage int4 writes it."""
    net = Net((1, "m", K))
    ones = net.real(np.ones((N, K // 128) if blocks else N))
    options = {"axis": 1, "block_size": 128} if blocks else {"axis": 0}
    values = net.op("DequantizeLinear", net.codes((N, K), 4), ones, **options)
    codes = net.op("QuantizeLinear", net.op("Transpose", values, perm=[1, 0]), net.real(1), net.zero(TensorProto.INT8))
    return net.model(net.op("MatMul", net.quantized(), net.op("DequantizeLinear", codes, net.real(0.01))))


def int4_activations() -> ModelProto:
    net = Net()
    return net.model(net.op("MatMul", net.quantized(kind=TensorProto.INT4), net.weight(4)))


def zero_scale() -> ModelProto:
    net = Net()
    scale = net.real(np.r_[np.zeros((1, N)), np.full((1, N), 0.01)])
    weight = net.op("DequantizeLinear", net.codes((K, N), 4), scale, axis=0, block_size=128)
    return net.model(net.op("MatMul", "x", weight))


CASES: list[tuple[str, Callable[[], ModelProto], set[str]]] = [
    ("blocks of 128", weight_only, set()),
    ("blocks of 64", lambda: weight_only(64), set()),
    ("blocks of a stored transpose", lambda: stored_transposed(128), set()),
    ("requantized blocks", requantized, {"QV803"}),
    ("requantized rows", lambda: requantized(blocks=False), {"QV801", "QV803"}),
    ("blocks of 32", lambda: weight_only(32), {"QV801"}),
    ("a scale per channel", lambda: weight_only(scales="channel"), {"QV801"}),
    ("one scale", lambda: weight_only(scales="tensor"), {"QV801"}),
    ("blocks along the first of three axes", lambda: along_the_first_of_three(64), {"QV801"}),
    ("INT4 activations", int4_activations, {"QV801", "QV802"}),
    ("float32 activations", lambda: weight_only(kind="f32"), {"QV804"}),
    ("a scale of zero", zero_scale, {"QV805"}),
    ("FP8", float_graphs.fp8_static, set()),
    ("FP4 in standard operators", float_graphs.nvfp4, {"QV806"}),
    ("FP4 by TensorRT's operator", float_graphs.nvfp4_trt, set()),
]


@pytest.mark.parametrize(("model", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_documented(model: Callable[[], ModelProto], expected: set[str]) -> None:
    graph = model()
    assert proper(graph) == expected
    assert not {rule for rule in expected if Target.TENSORRT in RULES[rule].targets}
    assert not {f.rule for f in lint_model(graph)} & expected, "are not for TensorRT-RTX"


def test_rtx_builds_the_form_for_tensorrt(build: Build) -> None:
    verdict = build(requantized())
    assert verdict.built
    assert verdict.gemms("Int8") == 1


def findings(model: ModelProto, target: Target) -> list[Finding]:
    return lint_model(model, target)


def test_the_evidence_of_a_finding() -> None:
    (blocks,) = findings(weight_only(32), Target.TENSORRT_10)
    assert blocks.evidence == DOCUMENTED
    net = Net()
    casts = net.model(net.op("MatMul", "x", net.op("Cast", net.op("Cast", net.normal(K, N), to=3), to=10)))
    assert {f.evidence for f in findings(casts, Target.TENSORRT_10)} <= {UNTRIED}
    assert {f.evidence for f in findings(casts, Target.CPU)} <= {""}


@pytest.mark.parametrize("op", ["NonZero", "Det"])
def test_operators_that_tensorrt_itself_imports(op: str) -> None:
    net = Net(kind="f32")
    model = net.model(net.op(op, "x"), TensorProto.INT64 if op == "NonZero" else None)
    assert "QV601" in {f.rule for f in lint_model(model)}
    assert ("QV601" in proper(model)) == (op == "Det")
