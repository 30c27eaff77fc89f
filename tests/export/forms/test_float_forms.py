"""Products of FP8 and FP4 codes: nodes, types, bytes, and the numbers of the reference in two independent executors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from qvggt.errors import QvggtError
from qvggt.export.emulation import rounded_copy, run_model
from qvggt.export.forms.site import Site
from qvggt.export.forms.table import find_form
from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import emit_linear
from qvggt.export.precision import Precision
from qvggt.export.storage import Storage
from qvggt.formats.float_grid import E2M1, E4M3
from qvggt.formats.granularity import TENSOR, block
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.formats.tensor_format import TensorFormat
from qvggt.quant.linear import QuantLinear
from qvggt.target import Target

K, N = 64, 48
FP32, FP16, BF16 = Precision
FORMATS = [("fp8", "static"), ("fp8", "dynamic"), ("w4afp8", "static"), ("w4afp8", "dynamic"), ("nvfp4", "static")]
NOISE = {FP32: 2e-6, FP16: 2 * FP16.epsilon, BF16: 2 * BF16.epsilon}  # of the largest output
Array = NDArray[np.float32]


def linear(bits: str, act: str = "static", inputs: int = K, amax: float = 3.0) -> QuantLinear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        float_linear = nn.Linear(inputs, N).requires_grad_(False)
    format = find_format(bits, act)  # type: ignore[arg-type]
    assert isinstance(format, LinearFormat)
    return QuantLinear.from_float(float_linear, format, amax)


def network(
    module: QuantLinear,
    target: Target = Target.TENSORRT,
    precision: Precision = FP32,
    storage: Storage | None = None,
    uses: int = 1,
) -> ModelProto:
    builder = GraphBuilder(storage, precision)
    x = builder.input("x", [1, "rows", module.in_features])
    sums = [emit_linear(builder, f"a{use}", module, x, target, "a") for use in range(uses)]
    builder.output(sums[0] if uses == 1 else builder.op("Sum", sums, "sum"), "y", [1, "rows", N])
    model = builder.model("m", {}, "0")
    if storage is None:
        onnx.checker.check_model(model, full_check=True)
    return model


def tokens(rows: int, inputs: int = K) -> Array:
    """Of all sizes: ones, tiny ones, some beyond the range, a row of zeros."""
    x = np.random.default_rng(rows).standard_normal((1, rows, inputs)).astype(np.float32)
    x[:, rows // 2 :] *= 1e-3
    x[:, -1] = 0
    x[:, 0, :3] = 40.0
    return x


def error(got: Array, module: QuantLinear, x: Array) -> float:
    expected = module.product(torch.from_numpy(x)).numpy()
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("precision", [FP32, FP16, BF16])
@pytest.mark.parametrize(("bits", "act"), FORMATS)
def test_onnxruntime_computes_the_reference(bits: str, act: str, precision: Precision) -> None:
    module = linear(bits, act)
    model = rounded_copy(network(module, precision=precision), (TensorProto.BFLOAT16,))
    for rows in (1, 6):
        assert error(run_model(model, {"x": tokens(rows)})[0], module, tokens(rows)) < NOISE[precision]


@pytest.mark.parametrize(("bits", "act"), [form for form in FORMATS if form[0] != "nvfp4"])
def test_files_for_cpus_compute_the_reference(bits: str, act: str) -> None:
    module = linear(bits, act)
    assert error(run_model(network(module, Target.CPU), {"x": tokens(6)})[0], module, tokens(6)) < NOISE[FP32]


@pytest.mark.parametrize("precision", [FP32, FP16])
@pytest.mark.parametrize(("bits", "act"), FORMATS)
def test_the_reference_evaluator_agrees_on_the_file_itself(bits: str, act: str, precision: Precision) -> None:
    """It knows FP4, and shares no code with ONNX Runtime or with the copy that writes FP4 out."""
    module = linear(bits, act)
    got = ReferenceEvaluator(network(module, precision=precision)).run(None, {"x": tokens(6)})[0]
    assert error(got, module, tokens(6)) < NOISE[precision]


def test_ties_are_rounded_as_the_reference_does() -> None:
    """Values halfway between codes, and the same over a scale of a block: half to even, in every executor."""
    steps = torch.cat([torch.arange(0, 8, 0.25), torch.tensor([9.5, 17, 18, 19, 27, 432, 464, 480, 1e4])])
    for bits, least in (("fp8", 2.0**-6), ("nvfp4", 1.0)):
        module = linear(bits)
        module.act_amax = torch.tensor(448.0 if bits == "fp8" else 2688.0)
        x = torch.zeros(1, 4, K)
        x[0, :, : len(steps)] = torch.stack([steps, -steps, steps * least, -steps * least])
        x[0, :, 15::16] = 6.0  # of FP4, the largest of a block: its scale is 1
        eye = QuantLinear.from_float(nn.Linear(K, K, bias=False), module.format, 1.0)
        eye.codes, eye.act_amax = torch.eye(K).mul(4).to(eye.codes.dtype), module.act_amax
        eye.weight_scale = torch.ones_like(eye.weight_scale)
        builder = GraphBuilder()
        y = emit_linear(builder, "a", eye, builder.input("x", [1, "rows", K]), Target.TENSORRT)
        builder.output(y, "y", [1, "rows", K])
        model, expected = builder.model("m", {}, "0"), eye.product(x).numpy()
        for got in (run_model(model, {"x": x.numpy()}), ReferenceEvaluator(model).run(None, {"x": x.numpy()})):
            np.testing.assert_allclose(got[0], expected, rtol=1e-6)  # the next code is 6 % away
        assert len(np.unique(expected)) > 15


def initializers(model: ModelProto) -> Mapping[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


@pytest.mark.parametrize(
    ("bits", "opset", "ir"), [("fp8", 21, 10), ("w4afp8", 21, 10), ("w8a8", 21, 10), ("nvfp4", 23, 11)]
)
def test_only_fp4_needs_a_newer_opset(bits: str, opset: int, ir: int) -> None:
    model = network(linear(bits))
    assert (model.opset_import[0].version, model.ir_version) == (opset, ir)


def test_fp4_has_no_earlier_opset() -> None:
    model = network(linear("nvfp4"))
    model.opset_import[0].version = 22
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("precision", [FP32, FP16])
def test_fp8_nodes(precision: Precision) -> None:
    """No Clip, as QuantizeLinear saturates; one constant inside the product, all other scales after it in fp32."""
    model = network(linear("fp8"), precision=precision)
    ops = Counter(node.op_type for node in model.graph.node if node.name.startswith("a0/"))
    casts = {"Cast": 1} if precision is FP16 else {}
    assert ops == {"QuantizeLinear": 1, "DequantizeLinear": 2, "MatMul": 1, "Mul": 1, "Add": 1, **casts}
    stored = initializers(model)
    assert stored["a.weight_codes"].data_type == stored["zero_fp8"].data_type == TensorProto.FLOAT8E4M3FN
    inside = [node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    values = [numpy_helper.to_array(stored[name]) for name in inside]
    step = np.float32(3.0 * 8) / np.float32(448)
    assert values == ([2**-9, 2**-9] if precision is FP16 else [step, 2**-9])
    rows = numpy_helper.to_array(stored["a.weight_scale"])
    assert rows.shape == (N,)
    assert rows.dtype == np.float32


def test_nvfp4_nodes() -> None:
    """Standard operators alone: scales of blocks through FP8, and what they are multiplied with is a power of two."""
    model = network(linear("nvfp4"), precision=FP16)
    nodes = {node.name: node for node in model.graph.node if node.name.startswith("a0/")}
    assert not any(node.domain for node in nodes.values())
    order = [node.op_type for node in nodes.values()]
    assert order == [
        *("Reshape", "Abs", "ReduceMax", "Mul", "Max", "QuantizeLinear", "DequantizeLinear", "QuantizeLinear"),
        *(
            "DequantizeLinear",
            "DequantizeLinear",
            "DequantizeLinear",
            "DequantizeLinear",
            "MatMul",
            "Cast",
            "Mul",
            "Add",
        ),
    ]
    stored = initializers(model)
    assert stored["a.weight_codes"].data_type == TensorProto.FLOAT4E2M1
    assert (list(stored["a.weight_codes"].dims), list(stored["a.block_scale"].dims)) == ([K, N], [K // 16, N])
    assert stored["a.block_scale"].data_type == TensorProto.FLOAT8E4M3FN
    power = stored[nodes["a0/DequantizeLinear_1"].input[1]]
    assert power.data_type == TensorProto.FLOAT16
    assert numpy_helper.to_array(power) == 2**-12
    assert numpy_helper.to_array(stored["a.weight_scale"]).dtype == np.float32


@pytest.mark.parametrize(("bits", "each"), [("fp8", 1.0), ("w4afp8", 0.5), ("nvfp4", 0.5 + 1 / 16)])
def test_bytes_are_those_of_the_format(bits: str, each: float, tmp_path: Path) -> None:
    """In external data too; only the scale that a row has is left out of `each`."""
    module = linear(bits, inputs=1024)
    with open(tmp_path / "m.data", "wb") as file:
        model = network(module, storage=Storage(file, "m.data"))
    codes = initializers(model)["a.weight_codes"]
    length = {entry.key: int(entry.value) for entry in codes.external_data if entry.key != "location"}["length"]
    assert length == 1024 * N * (1 if bits == "fp8" else 0.5)
    mine = [tensor for name, tensor in initializers(model).items() if name.startswith("a.") and "bias" not in name]
    sizes = [t.raw_data or next(e.value for e in t.external_data if e.key == "length") for t in mine]
    total = sum(len(size) if isinstance(size, bytes) else int(size) for size in sizes)
    assert total == module.format.stored_bytes((N, 1024)) == each * N * 1024 + 4 * N
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
    assert np.array_equal(
        numpy_helper.to_array(initializers(onnx.load(path))["a.weight_codes"]).astype(np.float32),
        module.codes.float().numpy().T if bits != "w4afp8" else module.codes.numpy(),
    )


@pytest.mark.parametrize("bits", ["fp8", "nvfp4"])
def test_calls_of_one_module_share_what_is_stored(bits: str) -> None:
    module, x = linear(bits), tokens(5)
    once, twice = (network(module, precision=FP16, uses=uses) for uses in (1, 2))
    assert initializers(once).keys() == initializers(twice).keys()
    assert error(run_model(twice, {"x": x})[0] / 2, module, x) < NOISE[FP16]


def test_codes_that_a_container_does_not_hold_are_an_error() -> None:
    site = Site(GraphBuilder(), "a", "a", Target.TENSORRT, FP32)
    with pytest.raises(ValueError, match="INT4 does not hold all of its codes"):
        site.stored_codes(np.array([[8]], np.int8), "INT4")
    with pytest.raises(ValueError, match="FP8 does not hold all of its codes"):
        site.stored_codes(np.array([[127]], np.int8), "FP8")


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(QvggtError, match=r"72 inputs are no multiple of 16, the block of nvfp4; .* --override a0=fp8"):
        network(linear("nvfp4", inputs=72))
    int8, nvfp4 = find_format("w8a8", "static"), find_format("nvfp4")
    assert isinstance(int8, LinearFormat)
    assert isinstance(nvfp4, LinearFormat)
    mixed = [
        (int8.weight, TensorFormat(E4M3, TENSOR)),  # 127 is no code of FP8
        (TensorFormat(E4M3, TENSOR), int8.activation),
        (nvfp4.weight, TensorFormat(E2M1, block(32), scale_grid=E4M3)),
        (nvfp4.weight, int8.activation),
        (int8.weight, TensorFormat(E2M1, TENSOR)),
    ]
    for weight, activation in mixed:
        with pytest.raises(QvggtError, match="cannot be exported, no form in ONNX is known for it"):
            find_form(LinearFormat("odd", 0.0, weight=weight, activation=activation))
