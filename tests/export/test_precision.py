"""Half-precision networks: which tensors are half, which stay fp32, and that the numbers stay those of the scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from small_network import small_images, small_model, small_rounded

from qvggt.errors import QvggtError
from qvggt.export.emulation import measurable
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import emit_linear
from qvggt.export.parity import check_linears, check_outputs
from qvggt.export.precision import Precision, float_type, rounded
from qvggt.formats.table import find_format
from qvggt.models.vggt.network import VGGT
from qvggt.onnx_view.graph import tensor_types
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import scheme_linears
from qvggt.quant.scheme import parse_scheme
from qvggt.quant.transform import InputTransform, TransformSpec
from qvggt.target import Target

SIDE = 28
HALF = (Precision.FP16, Precision.BF16)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return small_images(2, seed=1, size=SIDE)


def write(model: VGGT, bits: str, precision: Precision, path: Path, target: Target = Target.TENSORRT) -> Path:
    config = ExportConfig(SIDE, SIDE, target=target, precision=precision)
    export_onnx(model, parse_scheme(bits), config, path)
    return path


def quantized(bits: str, act: str, images: torch.Tensor) -> VGGT:
    return small_rounded(parse_scheme(bits, act), [images], seed=3)


@pytest.mark.parametrize("precision", HALF)
def test_islands(precision: Precision, tmp_path: Path) -> None:
    """Norms, the patch convolution, the camera head and what leads to exp are fp32; attention and linears half."""
    path = write(small_model(seed=3), precision.value, precision, tmp_path / "m.onnx")
    model = onnx.load(path)
    kinds, half = tensor_types(model), precision.onnx
    dense = half if precision is Precision.FP16 else TensorProto.FLOAT
    for node in model.graph.node:
        kind = kinds[node.output[0]]
        if node.op_type in ("LayerNormalization", "Exp", "Tanh") or node.name.startswith(
            ("camera_head.iter", "aggregator.patch_embed.patch_embed.proj/Conv")
        ):
            assert kind in (TensorProto.FLOAT, TensorProto.INT64), node.name
        elif node.op_type == "Softmax" or (node.op_type == "MatMul" and node.name.startswith("aggregator")):
            assert kind == half, node.name
        elif node.op_type in ("Conv", "ConvTranspose", "Resize"):
            assert kind == (TensorProto.FLOAT if "output_conv2.2" in node.name else dense), node.name
    assert {v.type.tensor_type.elem_type for v in [*model.graph.input, *model.graph.output]} == {TensorProto.FLOAT}
    assert {p.key: p.value for p in model.metadata_props}["qvggt.precision"] == precision.value


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize(
    ("bits", "act"), [("w8a8", "dynamic"), ("w8a8", "static"), ("w4a4", "dynamic"), ("w4a16", "dynamic")]
)
def test_every_linear_equals_the_reference(
    bits: str, act: str, precision: Precision, images: torch.Tensor, tmp_path: Path
) -> None:
    """The codes are those of fp32, so what differs is one rounding of the product (two for a weight-only one)."""
    model = quantized(bits, act, images)
    path = write(model, bits, precision, tmp_path / "m.onnx")
    results = check_linears(path, model, images, progress=False, precision=precision)
    assert len(results) == 36
    assert all(results), [p for p in results if not p]
    assert max(p.error for p in results) < 2 * precision.epsilon


def test_int4_activations_are_quantized_in_fp32_too(images: torch.Tensor, tmp_path: Path) -> None:
    model = quantized("w4a4", "static", images)
    path = write(model, "w4a4", Precision.FP16, tmp_path / "m.onnx")
    assert all(check_linears(path, model, images, progress=False, precision=Precision.FP16))


@pytest.mark.parametrize("precision", HALF)
def test_a_rotated_linear_is_held_to_a_rotated_reference(
    precision: Precision, images: torch.Tensor, tmp_path: Path
) -> None:
    model, scheme = small_model(seed=3), parse_scheme("w8a8")
    for path, linear, format in list(scheme_linears(model, scheme)):
        transform = InputTransform(linear.in_features, TransformSpec(rotation=True), seed=5)
        assert transform.rotation is not None
        weight = transform.rotation.rotate_weight(linear.weight)
        scale = format.weight.scale(weight)
        codes = format.weight.codes(weight, scale)
        model.set_submodule(path, QuantLinear.from_codes(codes, scale, linear.bias, format, transform))
    file = write(model, "w8a8", precision, tmp_path / "m.onnx")
    assert all(check_linears(file, model, images, progress=False, precision=precision))
    broken = model.get_submodule("aggregator.frame_blocks.0.mlp.fc2")
    assert isinstance(broken, QuantLinear)
    broken.codes[:8] = 0
    results = {p.path: p for p in check_linears(file, model, images, progress=False, precision=precision)}
    assert [path for path, p in results.items() if not p] == ["aggregator.frame_blocks.0.mlp.fc2"]


@pytest.mark.parametrize(("bits", "precision"), [("fp16", Precision.FP16), ("bf16", Precision.BF16)])
def test_whole_network(bits: str, precision: Precision, images: torch.Tensor, open_onnx: Any, tmp_path: Path) -> None:
    model = small_model(seed=3)
    path = write(model, bits, precision, tmp_path / "m.onnx")
    with measurable(path) as runnable:
        assert (runnable == path) is (precision is Precision.FP16)
        run = open_onnx(runnable)
        outputs = check_outputs(
            lambda x: run(torch.from_numpy(x)[None]), model, [images], parse_scheme(bits), precision=precision
        )
    assert all(outputs), outputs
    assert all(40 < o.self_db < 130 for o in outputs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def linear_file(module: QuantLinear, path: Path, precision: Precision = Precision.FP16) -> Path:
    builder = GraphBuilder(precision=precision)
    x = builder.cast(builder.input("x", [1, "n", module.in_features]), precision, "in")
    y = emit_linear(builder, "fc", module, x, Target.TENSORRT, "fc")
    builder.output(y, "y", [1, "n", module.out_features])
    path.write_bytes(builder.model("m", {}, "0").SerializeToString())
    return path


def run_linear(path: Path, x: torch.Tensor) -> np.ndarray:
    import onnxruntime as ort

    from qvggt.export.emulation import session_options

    session = ort.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x[None].numpy()})[0][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("magnitude", [0.0, 1e-7, 6e-5, 1.0, 6e4])
def test_token_ranges_at_both_ends_of_fp16(magnitude: float, tmp_path: Path) -> None:
    """Ranges and their reciprocals are fp32: 1 / 6e-5 would be 16667 in fp16, 1 / 1e-7 infinite, 1.008 * 6.5e4 too."""
    format = find_format("w8a8", "dynamic")
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 8, bias=False)
    module = QuantLinear.from_float(linear, format)
    x = (torch.rand(16, 64) * 2 - 1) * magnitude
    x = x.half().float()
    with torch.no_grad():
        expected = module(x).numpy()
    got = run_linear(linear_file(module, tmp_path / "m.onnx"), x)
    assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("bits", ["w8a8", "w4a8"])
def test_the_largest_products_do_not_overflow(bits: str, tmp_path: Path) -> None:
    """All codes at their limit, one sign, 4096 terms: 66 million as integers, 4064 as the fractions in the product."""
    format = find_format(bits, "dynamic")
    q = int(format.weight.grid.highest)
    codes = torch.full((8, 4096), q, dtype=torch.int8)
    module = QuantLinear.from_codes(codes, torch.full((8, 1), 1e-5), None, format)
    x = torch.ones(4, 4096)
    got = run_linear(linear_file(module, tmp_path / "m.onnx"), x)
    np.testing.assert_allclose(got, 4096 * q * 1e-5, rtol=1e-3)
    inside = [t for t in onnx.load(tmp_path / "m.onnx").graph.initializer if t.data_type == TensorProto.FLOAT16]
    assert inside
    for tensor in inside:  # powers of two: exact in every float type
        assert np.frexp(onnx.numpy_helper.to_array(tensor).astype(np.float64))[0] == 0.5


def test_tiny_block_scales_keep_their_digits(tmp_path: Path) -> None:
    """A folded LayerScale of 1e-5 puts w4a16 scales among the subnormals of fp16."""
    format = find_format("w4a16", "dynamic")
    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 64, bias=False)
    linear.weight.data *= 1e-5
    module = QuantLinear.from_float(linear, format)
    module.weight_scale = module.weight_scale.clone() / 20  # past the floor that rounding to nearest has
    x = torch.rand(16, 256).half().float()
    with torch.no_grad():
        expected = module(x).numpy()
    got = run_linear(linear_file(module, tmp_path / "m.onnx"), x * 1024) / 1024
    assert np.abs(got - expected).max() <= 2e-3 * np.abs(expected).max()


def test_a_weight_that_fp16_cannot_hold_is_named(tmp_path: Path) -> None:
    model = small_model(seed=3)
    model.aggregator.frame_blocks[0].attn.qkv.weight.data[3, 5] = 7e4  # type: ignore[union-attr, index, operator]
    with pytest.raises(QvggtError, match=r"frame_blocks\.0\.attn\.qkv\.weight: holds 7e\+04, fp16 ends at 65504.*bf16"):
        write(model, "fp16", Precision.FP16, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_rounding_is_half_to_even() -> None:
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, np.inf], np.float32)
    assert rounded("x", values, Precision.FP16).tolist() == [1, 1 + 2**-9, np.inf]
    assert rounded("x", values, Precision.BF16).dtype == ml_dtypes.bfloat16
    assert rounded("x", values, Precision.FP32) is values


def test_float_types_never_meet_without_a_cast() -> None:
    builder = GraphBuilder(precision=Precision.FP16)
    x = builder.input("x", ["n", 4])
    with pytest.raises(TypeError, match="Add of x FLOAT, w FLOAT16: cast one of them first"):
        builder.op("Add", [x, builder.real("w", np.ones(4, np.float32))], "a")
    assert builder.cast(x, Precision.FP32, "a") == x
    half = builder.cast(x, Precision.FP16, "a")
    assert builder.precision_of(builder.op("Add", [half, "w"], "a")) is Precision.FP16
    assert builder.real("w", np.ones(4, np.float32), Precision.FP32) == "w_fp32"


@pytest.mark.parametrize(
    ("asked", "bits", "target", "expected"),
    [
        (None, "w4a4", "cpu", "fp32"),
        (None, "w4a4", "tensorrt", "fp16"),
        (None, "fp32", "tensorrt", "fp32"),
        (None, "bf16", "cpu", "bf16"),
        ("bf16", "w8a8", "tensorrt", "bf16"),
        ("fp32", "w8a8", "tensorrt", "fp32"),
        ("fp16", "fp32", "cpu", "fp16"),
    ],
)
def test_float_type_of_an_export(asked: str | None, bits: str, target: str, expected: str) -> None:
    assert float_type(asked, parse_scheme(bits), target).value == expected
