"""`QuantLinear` against its formula and the float linear; against ONNX Runtime in test_linear_onnx.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qvggt.errors import QvggtError
from qvggt.formats.grid import IntegerGrid
from qvggt.formats.table import find_format
from qvggt.formats.tensor_format import EPS
from qvggt.models.token_types import token_types
from qvggt.quant.linear import QuantLinear
from qvggt.quant.transform import InputTransform, TransformSpec

FORMS = [("w8a8", "dynamic"), ("w8a8", "static"), ("w4a4", "dynamic"), ("w4a4", "static"), ("w4a16", "dynamic")]


def made(bits: str, activation: str, bias: bool = True) -> tuple[QuantLinear, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    linear, x = nn.Linear(160, 24, bias=bias), torch.randn(2, 9, 160)
    format = find_format(bits, activation)  # type: ignore[arg-type]
    return QuantLinear.from_float(linear, format, float(x.abs().max())), linear, x


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("bits", "activation"), FORMS)
def test_close_to_the_float_linear(bits: str, activation: str, bias: bool) -> None:
    module, linear, x = made(bits, activation, bias)
    error = (module(x) - linear(x)).norm() / linear(x).norm()
    assert error < {"w8a8": 0.02, "w4a4": 0.35, "w4a16": 0.15}[bits]


@pytest.mark.parametrize(("bits", "activation"), FORMS)
def test_state_dict_round_trip(bits: str, activation: str) -> None:
    module, _, x = made(bits, activation)
    other = QuantLinear(160, 24, module.format)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))
    assert module.codes.dtype == torch.int8


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("weight_bits", "act_bits"), [(8, 8), (6, 6), (4, 8), (4, 4)])
@pytest.mark.parametrize("activation", ["dynamic", "static"])
def test_output_is_an_integer_product(activation: str, weight_bits: int, act_bits: int, bias: bool) -> None:
    """scale_x scale_w (q_x q_w^T) + b in int64 and float64, a scale per token or per tensor."""
    module, linear, x = made(f"w{weight_bits}a{act_bits}", activation, bias)
    low, high = 0.9, 0.75
    if activation == "dynamic":
        module.act_clip = torch.tensor([low, high])
        top, bottom = x.double().amax(-1, keepdim=True) * high, -x.double().amin(-1, keepdim=True) * low
        amax = torch.maximum(top, bottom)
    else:
        module.act_amax = torch.tensor(2.5)
        amax = torch.tensor(2.5).double()
    q = IntegerGrid(act_bits).highest
    scaled = x.double() * q / amax
    away = ((scaled - scaled.floor() - 0.5).abs() > 1e-5).all(-1)  # tokens without a value on a rounding tie
    assert away.sum() > 15
    product = scaled.round().clamp(-q - 1, q).long() @ module.codes.long().T
    expected = product * (amax / q) * module.weight_scale.double().T
    if bias:
        expected += linear.bias.double()
    assert (module(x) - expected)[away].abs().max() < 1e-6 * expected.abs().max()


def test_weight_only_is_a_float_product() -> None:
    module, linear, x = made("w4a16", "dynamic")
    blocks = linear.weight.detach().split(128, dim=1)
    scale = torch.stack([part.abs().amax(1) for part in blocks], 1) / 7
    assert torch.equal(module.weight_scale, scale)
    weight = torch.cat([(part / s[:, None]).round() * s[:, None] for part, s in zip(blocks, scale.T, strict=True)], 1)
    assert torch.equal(module.weight_dequantized(), weight)
    assert torch.allclose(module(x), x @ weight.T + linear.bias, atol=1e-5)


def test_clips_shrink_the_range_of_their_side() -> None:
    module, _, x = made("w4a4", "dynamic")
    x = x.clone()
    x[..., 0], x[..., 1] = 4, -6  # of a token: the extremes
    for low, high, largest in ((1.0, 1.0, 6.0), (0.5, 1.0, 4.0), (0.5, 0.5, 3.0)):
        module.act_clip = torch.tensor([low, high])
        values, token_range = module.quantized_input(x)
        assert token_range is not None
        assert torch.equal(token_range, torch.full((2, 9, 1), largest))
        codes = values / IntegerGrid(4).unit_scale
        assert codes[..., 0].unique().tolist() == pytest.approx([7 if largest <= 4 else 5])
        assert codes[..., 1].unique().tolist() == pytest.approx([-7 if largest == 6 else -8])


def test_a_token_does_not_see_the_others() -> None:
    module, _, x = made("w8a8", "dynamic")
    changed = x.clone()
    changed[0, 1:] *= 100
    assert torch.equal(module.quantized_input(changed)[0][0, 0], module.quantized_input(x)[0][0, 0])
    torch.testing.assert_close(module(changed)[0, 0], module(x)[0, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("bits", "activation"), FORMS)
def test_computes_in_float64(bits: str, activation: str) -> None:
    module, _, x = made(bits, activation)
    y = module(x)
    for double in (module(x.double()), module.double()(x.double())):
        assert double.dtype == torch.float64
        torch.testing.assert_close(double, y.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("bits", "activation"), FORMS)
def test_a_half_precision_linear_gets_fp32_buffers(bits: str, activation: str) -> None:
    _, linear, x = made(bits, activation)
    format = find_format(bits, activation)  # type: ignore[arg-type]
    module = QuantLinear.from_float(linear.bfloat16(), format, 3.0)
    assert {b.dtype for b in module.buffers()} == {torch.int8, torch.float32}
    assert module(x).dtype == torch.float32


def test_buffers_are_copies() -> None:
    module, linear, _ = made("w8a8", "dynamic")
    before = module.bias.clone()  # type: ignore[union-attr]
    linear.bias.data += 1
    assert torch.equal(module.bias, before)  # type: ignore[arg-type]
    assert not any(b.requires_grad for b in module.buffers())


def test_an_unused_input_has_the_smallest_range() -> None:
    module = QuantLinear.from_float(nn.Linear(4, 4), find_format("w8a8", "static"), 0.0)
    assert module.act_amax.item() == pytest.approx(EPS)
    assert module(torch.randn(2, 4)).isfinite().all()


def test_transforms_come_first() -> None:
    module, linear, x = made("w8a8", "dynamic")
    transform = InputTransform(160, TransformSpec(rotation=True, scale=True), seed=1)
    transform.scale = torch.rand(160) + 0.5
    assert transform.rotation is not None
    weight = transform.rotation.rotate_weight(linear.weight.detach()) / transform.scale
    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = (weight / scale).round().to(torch.int8)
    turned = QuantLinear.from_codes(codes, scale, linear.bias, module.format, transform)
    assert (turned(x) - linear(x)).norm() < 0.02 * linear(x).norm()
    turned.transform = None
    assert torch.equal(
        turned(transform(x)), QuantLinear.from_codes(codes, scale, linear.bias, module.format, transform)(x)
    )


def test_static_needs_a_range() -> None:
    format = find_format("w8a8", "static")
    with pytest.raises(QvggtError, match="calibration data"):
        QuantLinear.from_float(nn.Linear(4, 4), format)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("bits", "activation"), FORMS)
def test_keeps_the_float_type_of_its_input(bits: str, activation: str, dtype: torch.dtype) -> None:
    """Whatever its buffers are: a bias that lifted half precision to fp32 would lift the network behind it."""
    module, _, x = made(bits, activation)
    assert module(x.to(dtype)).dtype == dtype
    transform = InputTransform(160, TransformSpec(kinds=2))
    centered = QuantLinear.from_codes(
        module.codes, module.weight_scale, None, module.format, transform, torch.zeros(2, 24)
    )
    with token_types(torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 1])):
        assert centered(x.to(dtype)).dtype == dtype


def test_holds_no_gradient_of_the_linear_it_comes_from() -> None:
    module, linear, _ = made("w8a8", "static")
    assert linear.weight.requires_grad
    assert not any(buffer.requires_grad for buffer in module.buffers())


def test_what_a_transform_has() -> None:
    assert TransformSpec() == TransformSpec(rotation=False, scale=False, kinds=0)
    assert not TransformSpec()
    for spec in (TransformSpec(rotation=True), TransformSpec(scale=True), TransformSpec(kinds=1)):
        assert spec
        parts = InputTransform(16, spec)
        assert (parts.rotation is not None, parts.scale is not None) == (spec.rotation, spec.scale)
        assert (parts.center is not None) == (spec.kinds > 0)


def test_says_its_sizes_however_it_was_made() -> None:
    module, linear, _ = made("w8a8", "static")
    for each in (module, QuantLinear.from_codes(module.codes, module.weight_scale, linear.bias, module.format)):
        assert (each.in_features, each.out_features) == (160, 24)
        assert repr(each) == f"QuantLinear(160, 24, {module.format.name})"
