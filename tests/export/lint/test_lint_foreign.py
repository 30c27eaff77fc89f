"""Files of other tools, damaged files, and files that are not quite right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lint_graphs import K, N, Net
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from rtx import Build, Lint

from qvggt.errors import QvggtError
from qvggt.export.lint import lint_model
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.network_facts import network_facts
from qvggt.target import Target


class Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.batches: Iterator[dict[str, Any]] = iter([{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)}] * 2)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolution with bias, Relu, matrix product, in float32."""
    net = Net((1, 3, 8, 8), "f32")
    y = net.op("Relu", net.op("Conv", "x", net.normal(16, 3, 3, 3), net.normal(16), kernel_shape=[3, 3]))
    y = net.op("MatMul", net.op("Reshape", y, net.store([1, 576], np.int64)), net.normal(576, 32))
    return net.save(y, tmp_path_factory.mktemp("foreign") / "float.onnx")


@pytest.mark.parametrize(
    ("options", "activations", "broken"),
    [
        ({}, QuantType.QUInt8, {"QV101", "QV103", "QV104"}),
        ({}, QuantType.QInt8, {"QV101", "QV104"}),
        ({"ActivationSymmetric": True}, QuantType.QInt8, {"QV104"}),
        ({"ActivationSymmetric": True, "QuantizeBias": False}, QuantType.QInt8, set()),
    ],
    ids=["default", "int8", "symmetric", "legal"],
)
def test_onnx_runtime_static_quantization(
    options: dict[str, bool],
    activations: QuantType,
    broken: set[str],
    network: Path,
    tmp_path: Path,
    rules: Lint,
    build: Build,
) -> None:
    """From its defaults to the options that TensorRT needs."""
    quantize_static(
        network,
        tmp_path / "int8.onnx",
        Batches(),
        quant_format=QuantFormat.QDQ,
        activation_type=activations,
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options=options,
    )
    model = onnx.load(tmp_path / "int8.onnx")
    assert rules(model) == broken
    verdict = build(model)
    assert verdict.parsed is not bool(broken)
    if not broken:
        assert verdict.gemms("Int8") == 2


def test_onnx_runtime_optimized_file(tmp_path: Path, rules: Lint, build: Build) -> None:
    """Above the basic level it fuses nodes into operators of its own."""
    net = Net((4, K), "f32")
    y = net.op("MatMul", net.op("Gelu", net.op("Add", "x", net.normal(K))), net.normal(K, N))
    path = net.save(net.op("Mul", y, net.real(0.5)), tmp_path / "plain.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "optimized.onnx")
    assert "QV602" in rules(model)
    assert not build(model).parsed


TRT = {"domain": "trt"}


def trt_domain(name: str) -> onnx.ModelProto:
    """As NVIDIA's ModelOpt writes quantized files: its own operators, at an opset that has no blocks and no INT4."""
    net = Net(("b", "m", K), opset=17)
    blocks = {"axis": 0, "block_size": 128, **TRT}
    step, x = net.real(0.05), "x"
    if name in ("DequantizeLinear", "TRT_INT4DequantizeLinear"):
        weight = net.op(name, net.codes((K, N), 4), net.real(np.full((2, N), 0.01)), **blocks)
    elif name == "transposed":
        scale = net.real(np.full((N, 2), 0.01))
        weight = net.op("TRT_INT4DequantizeLinear", net.codes((N, K), 4), scale, **blocks | {"axis": 1})
        weight = net.op("Transpose", weight, perm=[1, 0])
    elif name == "int8":
        zero = net.zero(TensorProto.INT8)
        x = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", step, zero, **TRT), step, zero, **TRT)
        weight = net.op("DequantizeLinear", net.codes((K, N)), step, **TRT)
    else:  # the float weight goes through Q and DQ, which the builder folds
        pairs = (net.op("TRT_FP8QuantizeLinear", y, step, **TRT) for y in ("x", net.normal(K, N)))
        x, weight = (net.op("TRT_FP8DequantizeLinear", codes, step, **TRT) for codes in pairs)
    model = net.model(net.op("MatMul", x, weight))
    model.opset_import.append(helper.make_opsetid("trt", 1))
    return model


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("DequantizeLinear", "INT4 weight-only"),
        ("TRT_INT4DequantizeLinear", "INT4 weight-only"),
        ("transposed", "INT4 weight-only"),
        ("int8", "INT8 GEMM"),
        ("fp8", "FP8 GEMM"),
    ],
)
def test_operators_of_tensorrt(name: str, kernel: str, rules: Lint, build: Build) -> None:
    """They are read like the standard ones: their products are known, with shapes behind them."""
    model = trt_domain(name)
    assert rules(model) == set()
    (linear,) = network_facts(Model(model)).linears
    assert (linear.wanted, linear.inner, linear.outer) == (kernel, K, N)
    verdict = build(model)
    assert verdict.fused("Int4") + verdict.gemms("Int8") + verdict.gemms("FP8") == 1


def test_faults_of_operators_of_tensorrt(rules: Lint, build: Build) -> None:
    """The rules see them too: scales that are no whole blocks, a weight without blocks, a plugin there is not."""
    partial, whole, absent = Net(), Net(), Net()
    scale = partial.real(np.full((3, N), 0.01))
    weight = partial.op("TRT_INT4DequantizeLinear", partial.codes((K, N), 4), scale, axis=0, block_size=128, **TRT)
    model = partial.model(partial.op("MatMul", "x", weight))
    assert rules(model) == {"QV204"}
    assert not build(model).parsed
    weight = whole.op("TRT_INT4DequantizeLinear", whole.codes((K, N), 4), whole.real(np.full(N, 0.01)), axis=1, **TRT)
    model = whole.model(whole.op("MatMul", "x", weight))
    assert rules(model) == {"QV304"}
    assert build(model).fused("Int4") == 0
    model = absent.model(absent.op("TRT_INT8QuantizeLinear", "x", absent.real(0.05), **TRT))
    assert rules(model) == {"QV602"}
    assert not build(model).parsed


def test_nodes_without_names(rules: Lint) -> None:
    net = Net()
    model = net.model(net.op("MatMul", net.quantized(zero=net.store(3, np.int8)), net.weight(scales="tensor")))
    for node in model.graph.node:
        node.name = ""
    assert [f.node for f in lint_model(model)] == ["QuantizeLinear_0_out", "DequantizeLinear_1_out"]


def test_old_initializers_are_graph_inputs_too(rules: Lint) -> None:
    """IR 3 lists every initializer among the inputs; they are constants all the same."""
    net = Net(kind="f32", opset=13)
    model = net.model(net.op("MatMul", net.quantized(), net.weight(scales="tensor")))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    assert rules(model) == set()


def test_unknown_types_and_shapes_are_no_findings(rules: Lint) -> None:
    net = Net()
    model = net.model(net.op("MatMul", net.quantized(), net.weight(scales="tensor")))
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert rules(model) == set()


def test_a_model_that_eats_its_tail(rules: Lint) -> None:
    nodes = [helper.make_node("Add", [a, "x"], [b], name=b) for a, b in (("p", "q"), ("q", "p"))]
    scale = helper.make_node("QuantizeLinear", ["x", "p"], ["y"], name="y")
    ends = [helper.make_tensor_value_info(n, t, []) for n, t in (("x", TensorProto.FLOAT), ("y", TensorProto.UINT8))]
    model = helper.make_model(helper.make_graph([*nodes, scale], "g", ends[:1], ends[1:]))
    assert "QV103" in rules(model)


def test_a_deep_graph(rules: Lint) -> None:
    """No recursion: a chain of 5000 constants into a scale."""
    net = Net(kind="f32")
    scale = net.real(0.05)
    for _ in range(5000):
        scale = net.op("Neg", scale)
    assert rules(net.model(net.op("MatMul", net.quantized(scale=scale), net.weight(scales="tensor")))) == set()


SEED = Net((1, "m", K))
SAMPLE = SEED.model(SEED.op("MatMul", SEED.quantized(SEED.op("Div", "x", SEED.token_range())), SEED.weight(4, "block")))
BYTES = SAMPLE.SerializeToString()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files_end_in_findings_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(BYTES)
    for position, value in flips:
        # the weight itself is most of the file and the least interesting part of it
        data[position if position % 2 else position % 1500] = value
    path = tmp_path_factory.mktemp("fuzz") / "m.onnx"
    path.write_bytes(data)
    outcome = ""
    try:
        outcome = "".join(finding.line() for finding in lint_model(path, Target.TENSORRT))
    except QvggtError as error:
        outcome = str(error)
    assert "\n" not in outcome
