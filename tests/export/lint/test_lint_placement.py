"""QV40x, each on a graph that breaks it, with what TensorRT-RTX makes of that graph."""

from __future__ import annotations

import numpy as np
import pytest
from lint_graphs import K, N, Net
from onnx import TensorProto
from rtx import Build, Lint

T = TensorProto


@pytest.mark.parametrize("between", ["Relu", "Mul", "Gelu", "LayerNormalization"])
def test_an_operator_after_the_activation(between: str, rules: Lint, build: Build) -> None:
    net = Net()
    x = net.quantized()
    if between == "Mul":
        x = net.op("Mul", x, net.real(np.full(K, 2.0)))
    elif between == "LayerNormalization":
        x = net.op("LayerNormalization", x, net.real(np.ones(K)))
    else:
        x = net.op(between, x)
    model = net.model(net.op("MatMul", x, net.weight(scales="tensor")))
    assert rules(model) == {"QV401"}
    verdict = build(model)
    assert verdict.built
    assert verdict.gemms("Int8") == 0


@pytest.mark.parametrize(
    ("between", "quantized"),
    [("Add", True), ("Relu", True), ("Add", False), ("Relu", False)],
)
def test_an_operator_after_the_weight(between: str, quantized: bool, rules: Lint, build: Build) -> None:
    net = Net()
    weight = net.weight(scales="tensor")
    if between == "Relu":
        weight = net.op("Relu", weight)
    else:
        weight = net.op("Add", weight, net.real(np.full((1, N), 2.0)))
    model = net.model(net.op("MatMul", net.quantized() if quantized else "x", weight))
    assert rules(model) == {"QV401"}
    verdict = build(model)
    assert verdict.built
    assert verdict.gemms("Int8") == 0
    assert verdict.fused("Int8") == 0


@pytest.mark.parametrize("shape", [(1, N), (K, 1), (1, 1)])
@pytest.mark.parametrize(("bits", "scales"), [(8, "tensor"), (8, "channel"), (4, "block")])
def test_factors_on_weight_only(bits: int, scales: str, shape: tuple[int, int], rules: Lint, build: Build) -> None:
    """A factor is taken into the kernel where it has the shape of the scale."""
    net = Net()
    weight = net.op("Mul", net.weight(bits, scales), net.real(np.full(shape, 2.0)))
    model = net.model(net.op("MatMul", "x", weight))
    fused = shape == (1, 1) or (scales, shape) in (("channel", (1, N)), ("tensor", (K, 1)))
    assert rules(model) == (set() if fused else {"QV401"})
    assert build(model).fused("Int8" if bits == 8 else "Int4") == fused


@pytest.mark.parametrize("shape", [(1, N), (K, 1), (1, 1)])
@pytest.mark.parametrize("scales", ["tensor", "channel"])
def test_factors_on_int8_products(scales: str, shape: tuple[int, int], rules: Lint, build: Build) -> None:
    net = Net(kind="f32")
    weight = net.op("Mul", net.weight(8, scales), net.real(np.full(shape, 2.0)))
    model = net.model(net.op("MatMul", net.quantized(), weight))
    fused = shape == (1, 1) or (scales, shape) == ("channel", (1, N))
    assert rules(model) == (set() if fused else {"QV401"})
    assert build(model).gemms("Int8") == fused


def test_a_float_weight(rules: Lint, build: Build) -> None:
    net = Net()
    model = net.model(net.op("MatMul", net.quantized(), net.normal(K, N)))
    assert rules(model) == {"QV402"}
    assert build(model).gemms("Int8") == 0


def test_a_float_activation_against_a_quantized_one(rules: Lint, build: Build) -> None:
    net = Net((1, 4, "m", K))
    net.graph_input("y", (1, 4, K, "m"))
    model = net.model(net.op("MatMul", net.quantized(), "y"))
    assert rules(model) == {"QV402"}
    assert build(model).gemms("Int8") == 0


def test_two_readers_of_one_pair_are_fine(rules: Lint, build: Build) -> None:
    net = Net()
    x = net.quantized()
    y = net.op("MatMul", x, net.weight(scales="tensor"))
    model = net.model(net.op("Add", y, net.op("ReduceSum", x, keepdims=1)))
    assert rules(model) == set()
    assert build(model).gemms("Int8") == 1


@pytest.mark.parametrize(("first", "second"), [(T.INT4, T.INT8), (T.INT8, T.INT4)])
def test_requantization_with_one_scale(first: int, second: int, rules: Lint, build: Build) -> None:
    net = Net(kind="f32")
    x = net.quantized(net.quantized(scale=0.1, kind=first), 0.1, second)
    model = net.model(net.op("MatMul", x, net.weight(8 if second == T.INT8 else 4)))
    assert rules(model) == {"QV403"}
    verdict = build(model)
    assert verdict.parsed
    assert "Mismatched type" in verdict.text


def test_requantization_of_a_weight_with_one_scale(rules: Lint, build: Build) -> None:
    net = Net()
    weight = net.quantized(net.weight(4, "tensor"), 0.01)
    model = net.model(net.op("MatMul", net.quantized(), weight))
    assert rules(model) == {"QV403"}
    assert "Mismatched type" in build(model).text


def test_requantization_with_two_scales_builds(rules: Lint, build: Build) -> None:
    net = Net()
    x = net.quantized(net.quantized(scale=0.1, kind=T.INT4), 0.05)
    model = net.model(net.op("MatMul", x, net.weight(scales="tensor")))
    assert rules(model) == set()
    assert build(model).gemms("Int8") == 1


@pytest.mark.parametrize("rows", [True, False])
def test_requantization_behind_a_transpose(rows: bool, rules: Lint, build: Build) -> None:
    """How our own files store 4-bit weights: INT4 -> DQ(1 per row) -> Transpose -> Q(1) -> int8 codes."""
    net = Net()
    one, zero = net.real(1.0), net.zero(T.INT8)
    ones = {"axis": 0} if rows else {}
    weight = net.op("DequantizeLinear", net.codes((N, K), 4), net.real(np.ones(N)) if rows else one, **ones)
    codes = net.op("QuantizeLinear", net.op("Transpose", weight, perm=[1, 0]), one, zero)
    model = net.model(net.op("MatMul", net.quantized(), net.op("DequantizeLinear", codes, net.real(0.01), zero)))
    assert rules(model) == (set() if rows else {"QV403"})
    verdict = build(model)
    assert verdict.built is rows
    assert verdict.gemms("Int8") == rows


@pytest.mark.parametrize("form", ["Div", "Mul"])
@pytest.mark.parametrize("again", [True, False])
def test_int4_codes_of_a_normalised_token(form: str, again: bool, rules: Lint, build: Build) -> None:
    """Dynamic per token with INT4 codes: fails where the range is multiplied back after the product."""
    net = Net((1, "m", K))
    scale = net.token_range()
    x = net.op("Div", "x", scale) if form == "Div" else net.op("Mul", "x", net.op("Reciprocal", scale))
    y = net.op("MatMul", net.quantized(x, 1 / 7, T.INT4), net.weight(4))
    model = net.model(net.op("Mul", y, scale) if again else y)
    assert rules(model) == ({"QV404"} if again else set())
    verdict = build(model)
    assert verdict.parsed
    assert verdict.built is not again


def test_the_int8_container_of_a_normalised_token_builds(rules: Lint, build: Build) -> None:
    """The fix that QV404 names."""
    net = Net((1, "m", K))
    scale = net.token_range()
    x = net.op("Clip", net.op("Div", "x", scale), net.real(-8 / 7), net.real(1.0))
    y = net.op("MatMul", net.quantized(x, 1 / 7), net.weight(4))
    model = net.model(net.op("Mul", y, scale))
    assert rules(model) == set()
    assert build(model).gemms("Int8") == 1
