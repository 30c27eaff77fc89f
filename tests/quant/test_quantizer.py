from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

from qvggt.quant.quantizer import (
    EPS,
    clip_weight,
    dequantize_weight,
    qmax,
    quantize_tensor,
    quantize_tokens,
    round_to_grid,
    spread,
    step,
    token_range,
    weight_codes,
    weight_scale,
)

GOLDEN = Path(__file__).parent.parent / "data" / "quantvggt_linear_reference.safetensors"
values = st.floats(-1e3, 1e3, width=32)
matrices = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 20)), elements=values).map(torch.tensor)
bits = st.sampled_from([4, 6, 8])
quick = settings(deadline=None, max_examples=60)


@pytest.mark.parametrize("case", range(5))
def test_reproduces_the_published_quantizer(case: int) -> None:
    """The five linears of the original implementation: weights exactly, outputs to float rounding."""
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["cases"])[str(case)]
        tensors = {k.partition("/")[2]: file.get_tensor(k) for k in file.keys() if k.startswith(f"case_{case}/")}  # noqa: SIM118
    weight, x = tensors["params/linear.weight"], tensors["x"]
    if config["rotation"]:
        weight, x = weight @ tensors["params/rotation_matrix"], x @ tensors["params/rotation_matrix"]
    if config["smoothing"]:
        weight, x = weight * tensors["params/channel_wise_scale"], x / tensors["params/channel_wise_scale"]
    if config["lwc"]:
        low, high = (tensors[f"params/clip_factor_w_{side}"].sigmoid() for side in ("min", "max"))
        weight = clip_weight(weight, low, high)
    scale = weight_scale(weight, config["w_bits"])
    quantized = dequantize_weight(weight_codes(weight, scale, config["w_bits"]), scale)
    assert torch.equal(quantized, tensors["weight_fake_quant"])
    low = high = torch.ones(())
    if config["lac"]:
        low, high = (tensors[f"params/act_quantizer.clip_factor_a_{side}"].sigmoid() for side in ("min", "max"))
    tokens = quantize_tokens(x, config["a_bits"], low, high)
    y = tokens.normalised @ quantized.T * tokens.range + tensors["params/linear.bias"]
    for name in ("y_eval", "y_train"):
        assert (y - tensors[name]).abs().max() < 2e-6 * tensors[name].abs().max()


@quick
@given(matrices, bits)
def test_weights_stay_on_their_grid_and_close(weight: torch.Tensor, bits: int) -> None:
    scale = weight_scale(weight, bits)
    codes = weight_codes(weight, scale, bits)
    assert codes.dtype == torch.int8
    assert codes.abs().max() <= qmax(bits)
    assert ((dequantize_weight(codes, scale) - weight).abs() <= scale * 0.5001).all()


@quick
@given(matrices, bits)
def test_codes_of_a_dequantized_weight_are_the_same(weight: torch.Tensor, bits: int) -> None:
    scale = weight_scale(weight, bits)
    codes = weight_codes(weight, scale, bits)
    assert torch.equal(weight_codes(dequantize_weight(codes, scale), scale, bits), codes)


@quick
@given(matrices, bits, st.integers(-6, 6))
def test_powers_of_two_change_the_scale_only(weight: torch.Tensor, bits: int, power: int) -> None:
    if weight.abs().amax(1).min() < 1:
        return  # the floor of a row's range is no power of two
    scale, scaled = weight_scale(weight, bits), weight_scale(weight * 2.0**power, bits)
    assert torch.equal(scaled, scale * 2.0**power)
    assert torch.equal(weight_codes(weight * 2.0**power, scaled, bits), weight_codes(weight, scale, bits))


@quick
@given(matrices, bits)
def test_tokens_stay_on_their_grid_and_do_not_see_each_other(x: torch.Tensor, bits: int) -> None:
    tokens = quantize_tokens(x, bits, 0.9, 0.8)
    q = qmax(bits)
    assert tokens.codes.min() >= -q - 1
    assert tokens.codes.max() <= q
    assert torch.equal(tokens.codes, tokens.codes.round())
    alone = quantize_tokens(x[:1], bits, 0.9, 0.8)
    assert torch.equal(alone.codes, tokens.codes[:1])
    assert torch.equal(alone.range, tokens.range[:1])


@quick
@given(matrices, bits, st.floats(0.5, 1.0), st.floats(0.5, 1.0))
def test_normalising_equals_the_per_token_scale(x: torch.Tensor, bits: int, low: float, high: float) -> None:
    """x / a on a constant grid is x on the grid of step a / Q, except within float rounding of a tie."""
    tokens = quantize_tokens(x, bits, low, high)
    scaled = x.double() / (tokens.range.double() / qmax(bits))
    away = ((scaled - scaled.floor()) - 0.5).abs() > 1e-4
    expected = scaled.round().clamp(-qmax(bits) - 1, qmax(bits))
    assert torch.equal(tokens.codes[away], expected[away].float())


def test_ranges() -> None:
    x = torch.tensor([[3.0, -1.0], [1.0, -4.0], [0.0, 0.0]])
    assert token_range(x, 1.0, 1.0).flatten().tolist() == pytest.approx([3, 4, EPS])
    assert token_range(x, 0.5, 1.0).flatten().tolist() == pytest.approx([3, 2, EPS])


def test_half_goes_to_even() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 200.0, -200.0])
    assert round_to_grid(x, 127.0, 8).tolist() == [0, 2, 2, 0, -2, 127, -128]


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_static_codes_saturate_at_the_range(bits: int) -> None:
    q = qmax(bits)
    x = torch.tensor([0.0, 2.0, 100.0, -100.0])
    assert quantize_tensor(x, torch.tensor(2.0), bits).tolist() == [0, q, q, -q - 1]


def test_zero_rows_and_tokens_stay_zero() -> None:
    weight = torch.zeros(2, 5)
    scale = weight_scale(weight, 4)
    assert dequantize_weight(weight_codes(weight, scale, 4), scale).abs().max() == 0
    tokens = quantize_tokens(torch.zeros(3, 5), 4)
    assert (tokens.normalised * tokens.range).abs().max() == 0


@quick
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 16))
def test_blocks_have_their_own_scale(rows: int, columns: int, block: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))
    scale = weight_scale(weight, 4, block)
    assert scale.shape == (rows, -(-columns // block))
    assert spread(scale, columns, block).shape == weight.shape
    last = weight[:, (columns - 1) // block * block :]
    assert torch.equal(scale[:, -1], weight_scale(last, 4)[:, 0])
    error = dequantize_weight(weight_codes(weight, scale, 4, block), scale, block) - weight
    assert (error.abs() <= spread(scale, columns, block) * 0.5001).all()


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_fake_quant_is_an_integer_product(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight, x = torch.randn(16, 64, generator=generator), torch.randn(9, 64, generator=generator)
    scale = weight_scale(weight, bits)
    codes, tokens = weight_codes(weight, scale, bits), quantize_tokens(x, bits)
    fake = tokens.normalised @ dequantize_weight(codes, scale).T * tokens.range
    integers = tokens.codes.long() @ codes.long().T
    exact = integers.double() * step(bits) * scale.double().T * tokens.range.double()
    assert (fake - exact).abs().max() < 1e-6 * exact.abs().max()


def test_works_in_float64() -> None:
    x = torch.randn(4, 8, dtype=torch.float64)
    assert quantize_tokens(x, 4).codes.dtype == torch.float64
