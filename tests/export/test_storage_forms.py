"""4-bit weights in the file, integer kernels when it runs: the forms of docs/storage.md in every runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from small_network import small_rounded

from qvggt.export.emulation import session_options
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import emit_linear
from qvggt.formats.table import find_format
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import quantized_linears
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target

K, N = 256, 128


def optimized(path: Path, folder: Path) -> Counter[str]:
    """Operators ONNX Runtime runs after it has loaded and folded a file."""
    options = session_options()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("bits", ["w4a4", "w4a8"])
def test_onnxruntime_runs_integer_products_from_four_bit_files(bits: str, tmp_path: Path) -> None:
    scheme = parse_scheme(bits)
    model = small_rounded(scheme)
    export_onnx(model, scheme, ExportConfig(28, 28), tmp_path / "m.onnx")
    linears = len(list(quantized_linears(model)))
    found = optimized(tmp_path / "m.onnx", tmp_path)
    assert found["MatMulIntegerToFloat"] == linears
    assert found["DequantizeLinear"] == 0
    assert found["QuantizeLinear"] == linears  # of activations: none is left on a weight


def module() -> QuantLinear:
    format = find_format("w4a4", "dynamic")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return QuantLinear.from_float(torch.nn.Linear(K, N, bias=False), format)


Weight = Callable[[GraphBuilder], str]


def codes(transposed: bool = True) -> np.ndarray:
    values = module().codes.numpy()
    return np.ascontiguousarray(values.T) if transposed else values


def scales(value: float | None = None) -> np.ndarray:
    rows = module().weight_scale.numpy()[:, 0]
    return rows if value is None else np.full(N, value, np.float32)


def final(b: GraphBuilder, int8: str) -> str:
    return b.op("DequantizeLinear", [int8, b.constant("rows", scales())], "w", axis=1)


def one(b: GraphBuilder) -> str:
    return b.constant("one", np.array(1, np.float32))


def zero(b: GraphBuilder) -> str:
    return b.constant("zero", np.zeros((), np.int8))


def container(b: GraphBuilder) -> str:
    return final(b, b.constant("codes", codes()))


def plain(b: GraphBuilder) -> str:
    return final(b, b.constant("codes", codes().astype(ml_dtypes.int4)))


def cast(b: GraphBuilder) -> str:
    return final(b, b.op("Cast", [b.constant("codes", codes().astype(ml_dtypes.int4))], "w", to=TensorProto.INT8))


def requantized(b: GraphBuilder) -> str:
    values = b.op("DequantizeLinear", [b.constant("codes", codes().astype(ml_dtypes.int4)), one(b)], "w")
    return final(b, b.op("QuantizeLinear", [values, one(b), zero(b)], "w"))


def turned(b: GraphBuilder) -> str:
    ones = b.constant("ones", scales(1))
    values = b.op("DequantizeLinear", [b.constant("codes", codes(False).astype(ml_dtypes.int4)), ones], "w", axis=0)
    values = b.op("Transpose", [values], "w", perm=[1, 0])
    return final(b, b.op("QuantizeLinear", [values, one(b), zero(b)], "w"))


def blocks(b: GraphBuilder) -> str:
    """As `turned`, with a scale for every block of 64: the form for TensorRT itself."""
    ones = b.constant("ones", np.ones((N, K // 64), np.float32))
    stored = b.constant("codes", codes(False).astype(ml_dtypes.int4))
    values = b.op("DequantizeLinear", [stored, ones], "w", axis=1, block_size=64)
    values = b.op("Transpose", [values], "w", perm=[1, 0])
    return final(b, b.op("QuantizeLinear", [values, one(b), zero(b)], "w"))


def write(weight: Weight, path: Path) -> Path:
    """x -> per-token grid -> product with a weight in the given form."""
    b = GraphBuilder()
    x = b.input("x", [1, "n", K])
    step = b.constant("step", np.array(1 / 7, np.float32))
    x = b.op("Clip", [x, b.constant("low", np.array(-8 / 7, np.float32)), one(b)], "x")
    x = b.op("DequantizeLinear", [b.op("QuantizeLinear", [x, step, zero(b)], "x"), step, zero(b)], "x")
    b.output(b.op("MatMul", [x, weight(b)], "fc"), "y", [1, "n", N])
    path.write_bytes(b.model("m", {}, "0").SerializeToString())
    return path


X = np.random.default_rng(0).uniform(-1, 1, (1, 8, K)).astype(np.float32)
INTEGER = Counter(QuantizeLinear=1, Clip=1, MatMulIntegerToFloat=1)


@pytest.mark.parametrize(
    ("weight", "bytes_per_weight", "nodes"),
    [
        (container, 1.0, INTEGER),
        (plain, 0.5, Counter(QuantizeLinear=1, Clip=1, DequantizeLinear=2, MatMul=1)),
        (cast, 0.5, INTEGER),
        (requantized, 0.5, INTEGER + Counter(DequantizeLinear=1, QuantizeLinear=1)),
        (turned, 0.5, INTEGER),
        (blocks, 0.5, INTEGER),
    ],
)
def test_forms_in_onnxruntime(weight: Weight, bytes_per_weight: float, nodes: Counter[str], tmp_path: Path) -> None:
    path = write(weight, tmp_path / "m.onnx")
    stored = next(t for t in onnx.load(path).graph.initializer if t.name == "codes")
    assert len(stored.raw_data) == bytes_per_weight * K * N
    assert optimized(path, tmp_path) == nodes
    reference = write(container, tmp_path / "reference.onnx")
    got, expected = (
        ort.InferenceSession(p, session_options(), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]
        for p in (path, reference)
    )
    np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max())


def test_openvino_runs_it_in_int8(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="needs OpenVINO: pip install '.[openvino]' in the clone")
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(write(turned, tmp_path / "m.onnx"), "CPU", options)
    facts = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    (product,) = [f for f in facts if f["layerType"].astype(str) == "FullyConnected"]
    assert product["runtimePrecision"].astype(str) == "i8"


@pytest.mark.parametrize(
    ("weight", "reason"), [(cast, "datatype Int4 but is not consumed by"), (plain, ""), (container, "")]
)
def test_forms_tensorrt_takes_and_refuses(weight: Weight, reason: str, tmp_path: Path) -> None:
    """`turned` is built by tests/engines/test_build_forms.py, in the exporter's own graph."""
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install '.[rtx]' in the clone")
    from qvggt.engines.build_config import BuildConfig
    from qvggt.engines.builder import build_engine, read_source
    from qvggt.errors import QvggtError

    path = write(weight, tmp_path / "m.onnx")
    config = BuildConfig(compute_capabilities=("8.9",))
    if not reason:
        assert build_engine(read_source(path), tmp_path / "m.engine", config, shown=False).report.measured
        return
    with pytest.raises(QvggtError, match=reason):
        build_engine(read_source(path), tmp_path / "m.engine", config, shown=False)


def test_the_exporter_writes_the_turned_form_for_both_targets(tmp_path: Path) -> None:
    sizes: dict[Target, Any] = {}
    for target in Target:
        b = GraphBuilder()
        x = b.input("x", [1, "n", K])
        b.output(emit_linear(b, "fc", module(), x, target, "fc"), "y", [1, "n", N])
        path = tmp_path / f"{target.value}.onnx"
        path.write_bytes(b.model("m", {}, "0").SerializeToString())
        assert [n.op_type for n in b.nodes if n.name.startswith("fc.weight/")] == [
            "DequantizeLinear",
            "Transpose",
            "QuantizeLinear",
        ]
        sizes[target] = path.stat().st_size
        assert optimized(path, tmp_path)["MatMulIntegerToFloat"] == 1
    assert abs(sizes[Target.CPU] - sizes[Target.TENSORRT]) < 1000
