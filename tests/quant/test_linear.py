from __future__ import annotations

import pytest
import torch
from torch import nn

from qvggt.errors import QvggtError
from qvggt.quant import QuantLinear
from qvggt.quant.scheme import linear_format
from qvggt.quant.transform import InputTransform, TransformSpec

FORMS = [("w8a8", "dynamic"), ("w8a8", "static"), ("w4a4", "dynamic"), ("w4a4", "static"), ("w4a16", "dynamic")]


def made(bits: str, activation: str, bias: bool = True) -> tuple[QuantLinear, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    linear, x = nn.Linear(160, 24, bias=bias), torch.randn(2, 9, 160)
    format = linear_format(bits, activation)  # type: ignore[arg-type]
    assert format is not None
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


def test_output_is_the_documented_formula() -> None:
    module, _, x = made("w4a4", "dynamic")
    a = x.abs().amax(-1, keepdim=True)
    assert torch.allclose(module(x), module.input_codes(x) / 7 @ module.weight_dequantized().T * a + module.bias)


def test_clips_shrink_the_range() -> None:
    module, _, x = made("w4a4", "dynamic")
    module.act_clip = torch.tensor([0.5, 0.5])
    codes = module.input_codes(x)
    assert (codes == 7).sum() > 100
    assert (codes == -8).sum() > 0


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


def test_static_needs_a_range() -> None:
    format = linear_format("w8a8", "static")
    assert format is not None
    with pytest.raises(QvggtError, match="calibration data"):
        QuantLinear.from_float(nn.Linear(4, 4), format)
