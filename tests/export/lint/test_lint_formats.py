"""QV1xx, each on a graph that breaks it, with what TensorRT-RTX makes of that graph."""

from __future__ import annotations

import numpy as np
import pytest
from lint_graphs import K, N, Net
from onnx import TensorProto, numpy_helper
from rtx import Build, Lint

T = TensorProto


@pytest.mark.parametrize("place", ["activation", "weight", "channel"])
def test_zero_points_are_refused(place: str, rules: Lint, build: Build) -> None:
    net = Net()
    three = net.store(3, np.int8)
    x = net.quantized(zero=three if place == "activation" else "")
    weight = net.weight(scales="tensor")
    if place == "weight":
        weight = net.op("DequantizeLinear", net.codes((K, N)), net.real(0.01), three)
    if place == "channel":  # one channel of many, 4-bit codes so that nothing else is wrong
        zeros = net.packed(np.arange(N) == 7)
        weight = net.op("DequantizeLinear", net.codes((K, N), 4), net.real(np.full(N, 0.01)), zeros, axis=1)
    model = net.model(net.op("MatMul", x, weight))
    assert rules(model) == {"QV101"}
    verdict = build(model)
    assert not verdict.parsed
    assert "Non-zero zero point is not supported" in verdict.text


def test_a_computed_zero_point_is_refused(rules: Lint, build: Build) -> None:
    net = Net()
    zero = net.graph_input("z", (), T.INT8)
    model = net.model(net.op("MatMul", net.quantized(zero=zero), net.weight(scales="tensor")))
    assert rules(model) == {"QV102"}
    assert "`zero_point` which is not an initializer" in build(model).text


def test_stored_uint8_codes_are_refused(rules: Lint, build: Build) -> None:
    net = Net()
    weight = net.op("DequantizeLinear", net.store(np.ones((K, N)), np.uint8), net.real(0.01))
    model = net.model(net.op("MatMul", net.quantized(), weight))
    assert rules(model) == {"QV103"}
    assert "unsupported input type of UINT8" in build(model).text


@pytest.mark.parametrize("written", [True, False])
def test_uint8_activations_silently_become_int8(written: bool, rules: Lint, build: Build) -> None:
    """[0, 255] in ONNX; the compiled product is of Int8 codes, so 128 to 255 are out of its range."""
    net = Net()
    step = net.real(0.05)
    zero = [net.zero(T.UINT8)] if written else []  # ONNX: without a zero point the codes are uint8
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", step, *zero), step, *zero)
    model = net.model(net.op("MatMul", x, net.weight(scales="tensor")))
    assert rules(model) == {"QV103"}
    assert build(model).gemms("Int8") == 1


@pytest.mark.parametrize("kind", ["INT16", "UINT16", "UINT4", "FLOAT8E5M2", "FLOAT8E4M3FNUZ"])
def test_code_types_without_qdq(kind: str, rules: Lint, build: Build) -> None:
    net = Net()
    model = net.model(net.op("MatMul", net.quantized(kind=T.DataType.Value(kind)), net.weight(scales="tensor")))
    assert "QV104" in rules(model)
    assert not build(model).parsed


def test_int32_bias_is_refused(rules: Lint, build: Build) -> None:
    """What ONNX Runtime's static quantizer writes."""
    net = Net()
    bias = net.op("DequantizeLinear", net.store(np.arange(N), np.int32), net.real(0.0005))
    model = net.model(net.op("Add", net.op("MatMul", net.quantized(), net.weight(scales="tensor")), bias))
    assert rules(model) == {"QV104"}
    assert "must have type FP8, FP4, Int4, Int8" in build(model).text


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT8E4M3FN", "UINT8", "INT16", "FLOAT8E5M2"])
def test_casts_to_codes_do_not_build(kind: str, rules: Lint, build: Build) -> None:
    net = Net()
    codes = net.op("Cast", net.op("Round", "x"), to=T.DataType.Value(kind))
    model = net.model(net.op("Cast", codes, to=T.FLOAT16))
    assert "QV105" in rules(model)
    assert not build(model).built


def test_codes_by_cast_to_int4(rules: Lint, build: Build) -> None:
    net = Net()
    codes = net.op("Cast", net.op("Clip", net.op("Round", "x"), net.real(-7), net.real(7)), to=T.INT4)
    x = net.op("DequantizeLinear", codes, net.real(1.0))
    model = net.model(net.op("MatMul", x, net.weight(4)))
    assert rules(model) == {"QV105"}
    assert not build(model).built


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("reader", ["Transpose", "Identity", "Cast", "Gather"])
def test_stored_codes_are_for_dq_only(bits: int, reader: str, rules: Lint, build: Build) -> None:
    net = Net()
    codes = net.codes((N, K), bits)
    if reader == "Transpose":
        y = net.op("DequantizeLinear", net.op("Transpose", codes, perm=[1, 0]), net.real(0.01))
    elif reader == "Identity":
        y = net.op("DequantizeLinear", net.op("Identity", codes), net.real(0.01))
    elif reader == "Gather":
        y = net.op("DequantizeLinear", net.op("Gather", codes, net.store([1], np.int64)), net.real(0.01))
    else:
        y = net.op("Cast", codes, to=T.FLOAT16)
    model = net.model(y)
    assert "QV106" in rules(model)
    assert not build(model).built


@pytest.mark.parametrize("kind", ["INT4", "FLOAT8E4M3FN"])
def test_casts_of_codes_do_not_build(kind: str, rules: Lint, build: Build) -> None:
    net = Net(("m", 2))
    codes = net.op("QuantizeLinear", "x", net.real(0.1), net.zero(T.DataType.Value(kind)))
    model = net.model(net.op("Cast", codes, to=T.FLOAT16))
    assert rules(model) == {"QV105"}
    assert not build(model).built


@pytest.mark.parametrize("kind", ["UINT16", "INT16", "UINT32", "UINT64", "STRING", "UINT2"])
def test_tensor_types(kind: str, rules: Lint, build: Build) -> None:
    net = Net()
    net.graph_input("a", (4,), T.DataType.Value(kind))
    model = net.model(net.op("Identity", "a"), T.DataType.Value(kind))
    assert rules(model) == {"QV107"}
    assert not build(model).parsed


def test_uint8_images_are_fine_when_cast_at_once(rules: Lint, build: Build) -> None:
    net = Net()
    net.graph_input("image", (4,), T.UINT8)
    model = net.model(net.op("Cast", "image", to=T.FLOAT16))
    assert rules(model) == set()
    assert build(model).built
    moved = net.model(net.op("Cast", net.op("Reshape", "image", net.store([2, 2], np.int64)), to=T.FLOAT16))
    assert rules(moved) == {"QV107"}
    assert not build(moved).parsed


@pytest.mark.parametrize("kind", ["int8", "fp8", "int4", "node"])
@pytest.mark.parametrize("scalar", [True, False])
def test_a_stored_code_without_an_axis_does_not_build(kind: str, scalar: bool, rules: Lint, build: Build) -> None:
    """ONNX Runtime's static quantizer writes the factor of x * 0.5 so; the shape [1] (INT4: two codes) builds."""
    net = Net((2, 8, 16), "f32")
    shape = () if scalar else (2, 1) if kind == "int4" else (1,)
    if kind == "fp8":
        tensor = TensorProto(name="c", dims=shape, data_type=T.FLOAT8E4M3FN, raw_data=b"\x38")
        net.tensors.append(tensor)
        codes = "c"
    elif kind == "node":
        codes = net.op("Constant", value=numpy_helper.from_array(np.full(shape, 50, np.int8)))
    else:
        codes = net.codes(shape, 4 if kind == "int4" else 8)
    y = net.op("DequantizeLinear", codes, net.real(0.01))
    model = net.model(
        net.op("Mul", "x", y if shape != (2, 1) else net.op("Reshape", y, net.store([2, 1, 1], np.int64)))
    )
    broken = {"QV108", "QV504"} if kind == "int4" else {"QV108"}
    assert rules(model) == (broken if scalar else set())
    assert build(model).built is not scalar
