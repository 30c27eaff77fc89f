"""Q/DQ forms of quantized linears: which nodes, which types, and that they compute what the reference computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from small_network import small_images, small_model, small_rounded

from qvggt.export.emulation import session_options
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.parity import LINEAR_TOLERANCE, check_linears, spread_rows
from qvggt.models.vggt.network import VGGT
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import scheme_linears, tell_centers_
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.quant.transform import InputTransform, TransformSpec
from qvggt.target import Target

SIDE = 28
PATH = "aggregator.frame_blocks.0.mlp.fc2"
FORMS = [("w8a8", "dynamic"), ("w8a8", "static"), ("w6a6", "dynamic"), ("w4a8", "dynamic"), ("w4a4", "dynamic")]
FORMS += [("w4a4", "static"), ("w4a16", "dynamic")]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return small_images(3, seed=1, size=SIDE)


def quantized(scheme: Scheme, images: torch.Tensor) -> VGGT:
    return small_rounded(scheme, [images], seed=3)


def nodes(path: Path) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in onnx.load(path).graph.node:
        if node.name.startswith(PATH + "/"):
            found.setdefault(node.op_type, []).append(node)
    return found


def initializer(path: Path, name: str) -> TensorProto:
    return next(t for t in onnx.load(path).graph.initializer if t.name == name)


@pytest.mark.parametrize(
    ("bits", "act", "target"),
    [*((*form, target) for form in FORMS for target in (Target.CPU, Target.TENSORRT))]
    + [(*form, Target.TENSORRT_10) for form in (("w4a4", "static"), ("w4a16", "dynamic"))]
    + [("fp8", "static", Target.CPU), ("w4afp8", "dynamic", Target.TENSORRT_10), ("nvfp4", "static", Target.TENSORRT)],
)
def test_every_linear_equals_the_reference(
    bits: str, act: str, target: Target, images: torch.Tensor, tmp_path: Path
) -> None:
    scheme = parse_scheme(bits, act, ("dino", "aggregator", "camera"))
    model = quantized(scheme, images)
    export_onnx(model, scheme, ExportConfig(SIDE, SIDE, target=target), tmp_path / "m.onnx")
    results = check_linears(tmp_path / "m.onnx", model, images, progress=False)
    assert len(results) == 4 * (1 + 8 + 1)
    assert all(results), [p for p in results if not p]
    assert max(p.error for p in results) < LINEAR_TOLERANCE / 5


@pytest.mark.parametrize("spec", [TransformSpec(scale=True), TransformSpec(True, True), TransformSpec(rotation=True)])
def test_input_transforms_are_emitted(spec: TransformSpec, images: torch.Tensor, tmp_path: Path) -> None:
    model, scheme = small_model(seed=3), parse_scheme("w8a8")
    generator = torch.Generator().manual_seed(0)
    for path, linear, format in list(scheme_linears(model, scheme)):
        transform = InputTransform(linear.in_features, spec, seed=5)
        weight = linear.weight
        if transform.rotation is not None:
            weight = transform.rotation.rotate_weight(weight)
        if transform.scale is not None:
            transform.scale = torch.rand(linear.in_features, generator=generator) + 0.5
            weight = weight / transform.scale
        scale = format.weight.scale(weight)
        codes = format.weight.codes(weight, scale)
        model.set_submodule(path, QuantLinear.from_codes(codes, scale, linear.bias, format, transform))
    export_onnx(model, scheme, ExportConfig(SIDE, SIDE), tmp_path / "m.onnx")
    assert all(check_linears(tmp_path / "m.onnx", model, images, progress=False))
    expected = small_model(seed=3)(images)["pose_enc"]
    assert (model(images)["pose_enc"] - expected).norm() < 0.2 * expected.norm()


@pytest.mark.parametrize(("scheme", "target"), [("w8a8", "cpu"), ("w8a8", "tensorrt"), ("w4a4-static", "tensorrt")])
def test_centers_are_taken_off_by_type(scheme: str, target: str, tmp_path: Path) -> None:
    """A file of one linear's network against the reference, at frame counts it was not made for.

    Centers far from zero: a wrong row of the tables, in or out, would show in every output.
    """
    name, _, act = scheme.partition("-")
    model, parsed = small_model(seed=3), parse_scheme(name, act or "dynamic")
    generator = torch.Generator().manual_seed(0)
    special = model.config.patch_start
    for path, linear, format in list(scheme_linears(model, parsed)):
        types = special + 1 if "patch_embed" in path else 2 * special + 1
        transform = InputTransform(linear.in_features, TransformSpec(kinds=types))
        transform.center = torch.randn(types, linear.in_features, generator=generator)
        scale = format.weight.scale(linear.weight)
        codes = format.weight.codes(linear.weight, scale)
        bias = transform.center @ linear.weight.T + linear.bias
        module = QuantLinear.from_codes(codes, scale, None, format, transform, bias)
        if act:
            module.act_amax = torch.tensor(4.0)
        model.set_submodule(path, module)
    tell_centers_(model)
    export_onnx(model, parsed, ExportConfig(SIDE, SIDE, target=Target(target)), tmp_path / "m.onnx")
    session = ort.InferenceSession(tmp_path / "m.onnx", session_options())
    names = [output.name for output in session.get_outputs()]
    for frames in (1, 2, 5):
        images = torch.rand(frames, 3, SIDE, SIDE, generator=generator)
        assert all(check_linears(tmp_path / "m.onnx", model, images, progress=False))
        got = dict(zip(names, session.run(None, {"images": images[None].numpy()}), strict=True))
        expected, floats = model(images), small_model(seed=3)(images)
        for output in ("pose_enc", "depth"):
            size = expected[output].norm()
            assert (torch.from_numpy(got[output]) - expected[output]).norm() < 0.02 * size
            if not act:
                assert (expected[output] - floats[output]).norm() < 0.1 * size


def test_dynamic_form(images: torch.Tensor, tmp_path: Path) -> None:
    """The largest magnitude, Div, QuantizeLinear with a constant step 1/127, one product, the range multiplied back."""
    scheme = parse_scheme("w8a8")
    export_onnx(quantized(scheme, images), scheme, ExportConfig(SIDE, SIDE), tmp_path / "m.onnx")
    found = nodes(tmp_path / "m.onnx")
    count = {k: len(v) for k, v in found.items()}
    once = ("ReduceMax", "ReduceMin", "Neg", "Div", "QuantizeLinear", "MatMul", "Mul", "Add")
    assert count == {**dict.fromkeys(once, 1), "Max": 2, "DequantizeLinear": 2}
    step = initializer(tmp_path / "m.onnx", found["QuantizeLinear"][0].input[1])
    assert onnx.numpy_helper.to_array(step) == np.float32(1) / np.float32(127)
    zero = initializer(tmp_path / "m.onnx", found["QuantizeLinear"][0].input[2])
    assert zero.data_type == TensorProto.INT8
    assert onnx.numpy_helper.to_array(zero) == 0


def test_four_bits_are_clipped_in_their_container(images: torch.Tensor, tmp_path: Path) -> None:
    scheme = parse_scheme("w4a4")
    export_onnx(quantized(scheme, images), scheme, ExportConfig(SIDE, SIDE), tmp_path / "m.onnx")
    clip = nodes(tmp_path / "m.onnx")["Clip"]
    low, high = (onnx.numpy_helper.to_array(initializer(tmp_path / "m.onnx", n)) for n in clip[0].input[1:])
    assert low == pytest.approx(-8 / 7)
    assert high == pytest.approx(1)
    zero = initializer(tmp_path / "m.onnx", nodes(tmp_path / "m.onnx")["QuantizeLinear"][0].input[2])
    assert zero.data_type == TensorProto.INT8


@pytest.mark.parametrize("target", [Target.CPU, Target.TENSORRT])
@pytest.mark.parametrize("bits", ["w4a4", "w4a8", "w4a16"])
def test_four_bit_weights_are_stored_in_four_bits(
    bits: str, target: Target, images: torch.Tensor, tmp_path: Path
) -> None:
    scheme, config = parse_scheme(bits), ExportConfig(SIDE, SIDE, target=target)
    export_onnx(quantized(scheme, images), scheme, config, tmp_path / "m.onnx")
    codes = initializer(tmp_path / "m.onnx", f"{PATH}.weight_codes")
    assert codes.data_type == TensorProto.INT4
    assert len(codes.raw_data) == 64 * 256 // 2
    assert abs(onnx.numpy_helper.to_array(codes).astype(np.int8)).max() == 7


def test_tensorrt_eight_bit_weights_have_one_scale_in_the_product(images: torch.Tensor, tmp_path: Path) -> None:
    """Row scales go after the product: inside, the raw accumulator would overflow fp16 (DESIGN 3.5)."""
    scheme, config = parse_scheme("w8a8"), ExportConfig(SIDE, SIDE, target=Target.TENSORRT)
    export_onnx(quantized(scheme, images), scheme, config, tmp_path / "m.onnx")
    inside = nodes(tmp_path / "m.onnx")["DequantizeLinear"][1].input[1]
    assert onnx.numpy_helper.to_array(initializer(tmp_path / "m.onnx", inside)) == 2**-7
    rows = onnx.numpy_helper.to_array(initializer(tmp_path / "m.onnx", f"{PATH}.weight_scale"))
    assert rows.shape == (64,)


def test_weight_only_is_blocked_along_the_input(images: torch.Tensor, tmp_path: Path) -> None:
    scheme = parse_scheme("w4a16")
    export_onnx(quantized(scheme, images), scheme, ExportConfig(SIDE, SIDE), tmp_path / "m.onnx")
    found = nodes(tmp_path / "m.onnx")
    assert set(found) == {"DequantizeLinear", "MatMul", "Add"}
    attributes = {a.name: a.i for a in found["DequantizeLinear"][0].attribute}
    assert attributes == {"axis": 0, "block_size": 128}


def test_a_wrong_weight_fails_the_gate(images: torch.Tensor, tmp_path: Path) -> None:
    """The gate must be able to fail: one row of one weight off by one code."""
    scheme = parse_scheme("w8a8")
    model = quantized(scheme, images)
    export_onnx(model, scheme, ExportConfig(SIDE, SIDE), tmp_path / "m.onnx")
    broken = model.get_submodule(PATH)
    assert isinstance(broken, QuantLinear)
    broken.codes[7] += torch.where(broken.codes[7] > 0, -1, 1).to(torch.int8)
    results = {p.path: p for p in check_linears(tmp_path / "m.onnx", model, images, progress=False)}
    assert not results[PATH]
    assert all(p for path, p in results.items() if path != PATH)


def test_compared_inputs_are_bounded_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvggt.export.parity.MAX_ROWS", 8)
    rows = spread_rows(torch.arange(60.0).view(3, 10, 2))
    assert rows.shape[1] == 2
    assert rows[0, 0] == 0
    assert rows[-1, 0] >= 48
    assert 4 <= len(rows) <= 8
