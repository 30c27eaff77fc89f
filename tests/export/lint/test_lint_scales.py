"""QV2xx, each on a graph that breaks it, with what TensorRT-RTX makes of that graph."""

from __future__ import annotations

import numpy as np
import pytest
from lint_graphs import K, N, Net
from onnx import TensorProto
from rtx import Build, Lint

T = TensorProto


@pytest.mark.parametrize("source", ["range", "input"])
def test_a_computed_scale_loses_the_integer_product(source: str, rules: Lint, build: Build) -> None:
    net = Net()
    if source == "input":
        scale = net.graph_input("s", ())
    else:
        scale = net.op("Mul", net.op("ReduceMax", net.op("Abs", "x"), keepdims=0), net.real(1 / 127))
    model = net.model(net.op("MatMul", net.quantized(scale=scale), net.weight(scales="tensor")))
    assert rules(model) == {"QV201"}
    verdict = build(model)
    assert verdict.built
    assert verdict.gemms("Int8") == 0
    assert verdict.fused("Int8") == 1  # the weight is 8-bit, the activation is not


def test_a_scale_per_token_is_refused(rules: Lint, build: Build) -> None:
    net = Net()
    largest = net.op("ReduceMax", net.op("Abs", "x"), net.store([1], np.int64), keepdims=0)
    scale = net.op("Mul", largest, net.real(1 / 127))
    codes = net.op("QuantizeLinear", "x", scale, axis=0, output_dtype=T.INT8)
    x = net.op("DequantizeLinear", codes, scale, axis=0)
    model = net.model(net.op("MatMul", x, net.weight(scales="tensor")))
    assert rules(model) == {"QV202"}
    assert not build(model).parsed


@pytest.mark.parametrize("value", [0.0, -0.1, 1e-9, np.nan])
@pytest.mark.parametrize("place", ["activation", "weight"])
def test_scales_must_be_positive(value: float, place: str, rules: Lint, build: Build) -> None:
    """1e-9 is zero in float16."""
    net = Net()
    x = net.quantized(scale=value if place == "activation" else 0.05)
    weight = net.op("DequantizeLinear", net.codes((K, N)), net.real(value if place == "weight" else 0.01))
    model = net.model(net.op("MatMul", x, weight))
    assert rules(model) == {"QV203"}
    assert "Scale coefficients must all be positive" in build(model).text


def test_one_channel_of_many(rules: Lint, build: Build) -> None:
    net = Net(kind="f32")
    weight = net.op("DequantizeLinear", net.codes((K, N)), net.real(np.arange(N)), axis=1)
    model = net.model(net.op("MatMul", net.quantized(), weight))
    assert rules(model) == {"QV203"}
    assert not build(model).parsed


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("blocks", [False, True])
def test_scales_that_are_no_number_build_and_are_found(value: float, blocks: bool, rules: Lint, build: Build) -> None:
    """TensorRT-RTX looks at INT4 and block scales not at all; a network whose output is not finite comes out."""
    net = Net()
    scales = np.full((2, N) if blocks else N, 0.01)
    scales[..., 7] = value
    how = {"axis": 0, "block_size": 128} if blocks else {"axis": 1}
    weight = net.op("DequantizeLinear", net.codes((K, N), 4), net.real(scales), **how)
    model = net.model(net.op("MatMul", "x" if blocks else net.quantized(), weight))
    assert rules(model) == {"QV203"}
    assert build(model).built


@pytest.mark.parametrize("value", [0.0, -0.01])
def test_zero_and_negative_scales_of_int4_weights_are_allowed(value: float, rules: Lint, build: Build) -> None:
    net = Net()
    scales = np.full((2, N), 0.01)
    scales[1, 7] = value
    weight = net.op("DequantizeLinear", net.codes((K, N), 4), net.real(scales), axis=0, block_size=128)
    model = net.model(net.op("MatMul", "x", weight))
    assert rules(model) == set()
    assert build(model).fused("Int4") == 1


@pytest.mark.parametrize(("length", "block"), [(256, 96), (320, 128)])
def test_blocks_that_do_not_divide_the_axis(length: int, block: int, rules: Lint, build: Build) -> None:
    net = Net(("m", length))
    model = net.model(net.op("MatMul", "x", net.weight(4, "block", (length, N), block=block)))
    assert rules(model) == {"QV204"}
    assert "must divide into whole blocks" in build(model).text


def test_uneven_blocks_compile_to_the_engine_of_even_ones(rules: Lint, build: Build) -> None:
    """200 = 128 + 72 in ONNX. TensorRT-RTX builds the same engine, byte for byte, as for 100 + 100."""
    engines = {}
    for block in (128, 100):
        net = Net(("m", 200))
        model = net.model(net.op("MatMul", "x", net.weight(4, "block", (200, N), block=block)))
        assert rules(model) == ({"QV204"} if block == 128 else set())
        verdict = build(model)
        assert verdict.built
        engines[block] = verdict.sha256
    assert engines[128] == engines[100]
