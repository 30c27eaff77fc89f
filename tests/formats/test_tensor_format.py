from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

from qvggt.calib.import_quantvggt import clip_weight
from qvggt.formats.granularity import ROW, TENSOR, TOKEN, block
from qvggt.formats.grid import Grid, IntegerGrid
from qvggt.formats.tensor_format import EPS, WEIGHT_FLOOR, TensorFormat, token_range

GOLDEN = Path(__file__).parent.parent / "data" / "quantvggt_linear_reference.safetensors"
values = st.floats(-1e3, 1e3, width=32)
matrices = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 20)), elements=values).map(torch.tensor)
bits = st.sampled_from([4, 6, 8])
powers = st.integers(-6, 6).map(lambda n: 2.0**n)
quick = settings(deadline=None, max_examples=60)
HALF = 0.5001  # of a step: what rounding may move a value by, with room for float rounding


def rows(bits: int) -> TensorFormat:
    return TensorFormat(IntegerGrid(bits, narrow=True), ROW)


class Tokens(NamedTuple):
    codes: torch.Tensor
    range: torch.Tensor
    normalised: torch.Tensor


def quantized_tokens(bits: int, x: torch.Tensor, *clips: float | torch.Tensor) -> Tokens:
    format = TensorFormat(IntegerGrid(bits), TOKEN, dynamic=True)
    codes, ranges = format.quantize_tokens(x, *clips)
    return Tokens(codes, ranges, codes * format.grid.unit_scale)


def above_the_floors(x: torch.Tensor) -> torch.Tensor:
    """x with a first column of at least 1, so that no row's range is a floor."""
    return torch.cat([x[:, :1].abs() + 1, x[:, 1:]], dim=1)


@pytest.mark.parametrize("case", range(5))
def test_reproduces_the_published_quantizer(case: int) -> None:
    """The five linears of the original implementation: every weight code, outputs to float rounding."""
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
    scale = rows(config["w_bits"]).scale(weight)
    quantized = rows(config["w_bits"]).dequantize(rows(config["w_bits"]).codes(weight, scale), scale)
    if config["rotation"]:  # a product, whose last bit depends on the CPU; one code is at least 1 / 127
        torch.testing.assert_close(quantized, tensors["weight_fake_quant"], rtol=1e-6, atol=0)
    else:
        assert torch.equal(quantized, tensors["weight_fake_quant"])
    low = high = torch.ones(())
    if config["lac"]:
        low, high = (tensors[f"params/act_quantizer.clip_factor_a_{side}"].sigmoid() for side in ("min", "max"))
    tokens = quantized_tokens(config["a_bits"], x, low, high)
    y = tokens.normalised @ quantized.T * tokens.range + tensors["params/linear.bias"]
    for name in ("y_eval", "y_train"):
        assert (y - tensors[name]).abs().max() < 1e-6 * tensors[name].abs().max()


@quick
@given(matrices, bits)
def test_weights_stay_on_their_grid_and_close(weight: torch.Tensor, bits: int) -> None:
    scale = rows(bits).scale(weight)
    codes = rows(bits).codes(weight, scale)
    assert codes.dtype == torch.int8
    assert codes.abs().max() <= IntegerGrid(bits).highest
    assert ((rows(bits).dequantize(codes, scale) - weight).abs() <= scale * HALF).all()


@quick
@given(matrices, bits)
def test_codes_of_a_dequantized_weight_are_the_same(weight: torch.Tensor, bits: int) -> None:
    scale = rows(bits).scale(weight)
    codes = rows(bits).codes(weight, scale)
    dequantized = rows(bits).dequantize(codes, scale)
    assert torch.equal(rows(bits).codes(dequantized, scale), codes)
    assert torch.equal(rows(bits).codes(dequantized, rows(bits).scale(dequantized)), codes)


@quick
@given(matrices, bits, powers)
def test_powers_of_two_change_the_scale_only(x: torch.Tensor, bits: int, power: float) -> None:
    x = above_the_floors(x)
    scale, scaled = rows(bits).scale(x), rows(bits).scale(x * power)
    assert torch.equal(scaled, scale * power)
    assert torch.equal(rows(bits).codes(x * power, scaled), rows(bits).codes(x, scale))
    tokens, scaled_tokens = (
        quantized_tokens(bits, x, 0.9, 0.8),
        quantized_tokens(bits, x * power, 0.9, 0.8),
    )
    assert torch.equal(scaled_tokens.range, tokens.range * power)
    assert torch.equal(scaled_tokens.codes, tokens.codes)


@quick
@given(matrices, bits)
def test_tokens_stay_on_their_grid_and_do_not_see_each_other(x: torch.Tensor, bits: int) -> None:
    tokens = quantized_tokens(bits, x, 0.9, 0.8)
    q = IntegerGrid(bits).highest
    assert tokens.codes.min() >= -q - 1
    assert tokens.codes.max() <= q
    assert torch.equal(tokens.codes, tokens.codes.round())
    for i in range(len(x)):
        alone = quantized_tokens(bits, x[i], 0.9, 0.8)
        assert torch.equal(alone.codes, tokens.codes[i])
        assert torch.equal(alone.range, tokens.range[i])


@quick
@given(matrices, bits, st.floats(0.5, 1.0), st.floats(0.5, 1.0))
def test_tokens_are_within_half_a_step_inside_their_clips(x: torch.Tensor, bits: int, low: float, high: float) -> None:
    tokens = quantized_tokens(bits, x, low, high)
    error = (tokens.normalised * tokens.range - x).abs()
    assert (error <= tokens.range * IntegerGrid(bits).unit_scale * HALF)[x.abs() <= tokens.range].all()
    q = IntegerGrid(bits).highest
    assert (tokens.codes == q)[x > tokens.range].all()
    assert (tokens.codes <= -q)[x < -tokens.range].all()


@quick
@given(matrices, bits, st.floats(0.5, 1.0), st.floats(0.5, 1.0))
def test_normalising_equals_the_published_per_token_scale(x: torch.Tensor, bits: int, low: float, high: float) -> None:
    """q = round(x / delta), delta = max(|m|, M) / Q (spec/quantvggt.md 2.2), except within float rounding of a tie."""
    exact, q = x.double(), IntegerGrid(bits).highest
    top, bottom = exact.amax(-1).clamp_min(0) * high, exact.amin(-1).clamp_max(0) * low
    largest = torch.maximum(bottom.abs(), top)[:, None]
    assume(bool((largest > EPS).any()))
    scaled = exact / (largest.clamp_min(1e-30) / q)
    away = (((scaled - scaled.floor()) - 0.5).abs() > 1e-4) & (largest > EPS)
    expected = scaled.round().clamp(-q - 1, q)
    assert torch.equal(quantized_tokens(bits, x, low, high).codes[away], expected[away].float())


def test_ranges() -> None:
    x = torch.tensor([[3.0, -1.0], [1.0, -4.0], [0.0, 0.0]])
    assert token_range(x, 1.0, 1.0).flatten().tolist() == pytest.approx([3, 4, EPS])
    assert token_range(x, 0.5, 1.0).flatten().tolist() == pytest.approx([3, 2, EPS])


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_half_goes_to_even(bits: int) -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 200.0, -200.0])
    q = IntegerGrid(bits).highest
    assert IntegerGrid(bits).round(x, 1.0).tolist() == [0, 2, 2, 0, -2, q, -q - 1]
    weight = torch.cat([x[:5], torch.tensor([float(q)])])[None]  # the last value makes the scale 1
    codes = rows(bits).codes(weight, rows(bits).scale(weight))
    assert codes.tolist() == [[0, 2, 2, 0, -2, q]]


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_steps_are_the_constants_of_the_file(bits: int) -> None:
    """The fp32 quotients that the exporter computes with numpy."""
    q = np.float32(IntegerGrid(bits).highest)
    assert IntegerGrid(bits).unit_scale == float(np.float32(1) / q)
    for amax in np.random.default_rng(0).lognormal(0, 3, 100).astype(np.float32):
        assert IntegerGrid(bits).scale(torch.tensor(amax)).item() == amax / q


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_static_codes_saturate_at_the_range(bits: int) -> None:
    q = IntegerGrid(bits).highest
    x = torch.tensor([0.0, 2.0, -2.0, 100.0, -100.0])
    assert IntegerGrid(bits).round(x, IntegerGrid(bits).scale(torch.tensor(2.0))).tolist() == [0, q, -q, q, -q - 1]


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_weight_codes_saturate_symmetrically(bits: int) -> None:
    """A grid may be laid over less than the row: GPTQ and learned clips do."""
    weight, q = torch.tensor([[300.0, -300.0, 1.0]]), IntegerGrid(bits).highest
    assert rows(bits).codes(weight, torch.ones(1, 1)).tolist() == [[q, -q, 1]]


def test_zero_rows_and_tokens_stay_zero() -> None:
    weight = torch.zeros(2, 5)
    scale = rows(4).scale(weight)
    assert torch.equal(scale, torch.full((2, 1), WEIGHT_FLOOR / 7))
    assert rows(4).dequantize(rows(4).codes(weight, scale), scale).abs().max() == 0
    tokens = quantized_tokens(4, torch.zeros(3, 5))
    assert (tokens.normalised * tokens.range).abs().max() == 0
    assert tokens.range.unique().tolist() == pytest.approx([EPS])


@quick
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 16))
def test_blocks_have_their_own_scale(count: int, columns: int, size: int) -> None:
    format = TensorFormat(IntegerGrid(4, narrow=True), block(size))
    weight = torch.randn(count, columns, generator=torch.Generator().manual_seed(columns))
    scale = format.scale(weight)
    assert scale.shape == (count, -(-columns // size))
    assert format.granularity.expand(scale, columns).shape == weight.shape
    last = weight[:, (columns - 1) // size * size :]
    assert torch.equal(scale[:, -1], rows(4).scale(last)[:, 0])
    error = format.dequantize(format.codes(weight, scale), scale) - weight
    assert (error.abs() <= format.granularity.expand(scale, columns) * 0.5001).all()


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_fake_quant_is_an_integer_product(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight, x = torch.randn(16, 64, generator=generator), torch.randn(9, 64, generator=generator)
    scale = rows(bits).scale(weight)
    codes, tokens = rows(bits).codes(weight, scale), quantized_tokens(bits, x)
    fake = tokens.normalised @ rows(bits).dequantize(codes, scale).T * tokens.range
    integers = tokens.codes.long() @ codes.long().T
    exact = integers.double() * IntegerGrid(bits).unit_scale * scale.double().T * tokens.range.double()
    assert (fake - exact).abs().max() < 1e-6 * exact.abs().max()


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_works_in_float64(bits: int) -> None:
    x = torch.randn(40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, single = quantized_tokens(bits, x), quantized_tokens(bits, x.float())
    assert tokens.codes.dtype == tokens.normalised.dtype == tokens.range.dtype == torch.float64
    assert torch.equal(tokens.codes, single.codes.double())
    scale = rows(bits).scale(x)
    assert scale.dtype == torch.float64
    assert torch.equal(rows(bits).codes(x, scale), rows(bits).codes(x.float(), scale.float()))


def test_clips_hold_each_row_to_its_own_extremes() -> None:
    weight = torch.tensor([[-4.0, -1.0, 2.0], [1.0, 3.0, 2.0], [-1.0, -3.0, -2.0]])
    clipped = clip_weight(weight, torch.tensor([[0.5], [0.5], [0.5]]), torch.tensor([[0.25], [0.5], [0.5]]))
    assert clipped.tolist() == [[-2, -1, 0.5], [1, 1.5, 1.5], [-1, -1.5, -1.5]]


def round_ste(x: torch.Tensor) -> torch.Tensor:
    return x + (x.round() - x).detach()


def apart(mode: str, bits: int, x: torch.Tensor, ranges: torch.Tensor) -> torch.Tensor:
    """Fake quantization as calibration learned through it when it had a rounding of its own."""
    q = 2 ** (bits - 1) - 1
    if mode == "dynamic":
        a = token_range(x, *ranges)
        return round_ste(x / a * q).clamp(-q - 1, q) / q * a
    if mode == "static":
        s = ranges / q
        return round_ste((x / s).clamp(-q - 1, q)) * s
    s = ranges.clamp_min(WEIGHT_FLOOR) / q
    return round_ste(x / s).clamp(-q, q) * s


def shared(mode: str, bits: int, x: torch.Tensor, ranges: torch.Tensor) -> torch.Tensor:
    if mode == "weight":
        scale = IntegerGrid(bits).scale(ranges.clamp_min(WEIGHT_FLOOR))
        return rows(bits).dequantize(rows(bits).round(x, scale, straight_through=True), scale)
    dynamic = mode == "dynamic"
    format = TensorFormat(IntegerGrid(bits), TOKEN if dynamic else TENSOR, dynamic)
    values, a = format.quantize(x, ranges, straight_through=True)
    return values if a is None else values * a


@pytest.mark.parametrize("where", ["inside", "at", "within half a code", "beyond"])
@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("mode", ["dynamic", "static", "weight"])
def test_gradients_pass_straight_through(mode: str, bits: int, where: str) -> None:
    """To the values and to their range alike, both ends of it: those of the separate forms it replaced."""
    q = 2 ** (bits - 1) - 1
    extreme = {"inside": 0.6, "at": 1.0, "within half a code": 1 + 0.3 / q, "beyond": 1.1}[where]
    generator = torch.Generator().manual_seed(bits)
    ranges = {"dynamic": torch.tensor([0.8, 0.9]), "static": torch.tensor(2.0), "weight": torch.full((6, 1), 2.0)}[mode]
    limit = 0.9 if mode == "dynamic" else 2.0  # of a token whose largest value is 1
    x = (torch.rand(6, 50, generator=generator) * 1.6 - 0.8) * limit
    x[:, 0], x[:, 1], x[:, 2] = (1.0, extreme * limit, -extreme * limit)
    goal = torch.rand(6, 50, generator=generator)
    found = []
    for quantize in (apart, shared):
        leaves = x.clone().requires_grad_(), ranges.clone().requires_grad_()
        y = quantize(mode, bits, *leaves)
        ((y - goal) ** 2).sum().backward()
        found.append((y.detach(), *(leaf.grad for leaf in leaves)))
    assert found[0][1] is not None
    assert (found[0][1][:, 1] == 0).all() == (where == "beyond" or (where == "within half a code" and mode == "static"))
    for old, new in zip(*found, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_straight_through_gives_the_same_codes(bits: int) -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 3
    scale = IntegerGrid(bits).scale(torch.tensor(4.0))
    assert torch.equal(IntegerGrid(bits).round(x, scale, straight_through=True), IntegerGrid(bits).round(x, scale))
    format = TensorFormat(IntegerGrid(bits), TENSOR)
    assert torch.equal(
        format.quantize_tensor(x, torch.tensor(4.0), straight_through=True),
        format.quantize_tensor(x, torch.tensor(4.0)),
    )


@quick
@given(
    hnp.arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 2, st.integers(1, 9)), elements=values), st.integers(1, 5)
)
def test_granularities_are_numpy_reductions(array: np.ndarray, size: int) -> None:
    """Of tensors with more than two dimensions too: only the last one is cut into blocks."""
    x, magnitude = torch.tensor(array), np.abs(array)
    columns = array.shape[-1]
    assert TENSOR.amax(x).shape == ()
    assert TENSOR.amax(x).item() == magnitude.max()
    for granularity in (ROW, TOKEN):
        assert np.array_equal(granularity.amax(x)[..., 0], magnitude.max(-1))
        assert granularity.groups(columns) == 1
    starts = range(0, columns, size)
    expected = np.stack([magnitude[..., start : start + size].max(-1) for start in starts], -1)
    assert np.array_equal(block(size).amax(x), expected)
    assert block(size).groups(columns) == len(starts)
    assert np.array_equal(block(size).expand(torch.tensor(expected), columns), expected.repeat(size, -1)[..., :columns])
    pieces = block(size).split(x)
    assert torch.equal(pieces.flatten(-2)[..., :columns], x)
    assert pieces.flatten(-2)[..., columns:].abs().sum() == 0


@pytest.mark.parametrize("dynamic", [False, True])
def test_rounding_passes_no_gradient_unless_asked(dynamic: bool) -> None:
    format = TensorFormat(IntegerGrid(4), TOKEN if dynamic else TENSOR, dynamic)
    x = torch.tensor([[0.3, 1.0, -0.5]], requires_grad=True)
    if dynamic:
        codes, _ = format.quantize_tokens(x)
        assert torch.autograd.grad(codes.sum(), x)[0].abs().sum() == 0
        y, _ = format.quantize(x, torch.ones(2))
    else:
        assert torch.autograd.grad(format.quantize_tensor(x, torch.tensor(1.0)).sum(), x)[0].abs().sum() == 0
        y, _ = format.quantize(x, torch.tensor(1.0))
    assert torch.autograd.grad(y.sum(), x)[0].abs().sum() == 0
    weight = TensorFormat(IntegerGrid(4, narrow=True), ROW).round(x, torch.ones(1, 1))
    assert torch.autograd.grad(weight.sum(), x)[0].abs().sum() == 0


class Elsewhere:
    """A tensor on another device, as far as packing can tell."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def cpu(self) -> torch.Tensor:
        return self.tensor


def test_a_grid_packs_what_lies_on_another_device() -> None:
    codes = torch.tensor([[-8, 7, 3]], dtype=torch.int8)
    grid = IntegerGrid(4)
    data = grid.pack(codes)
    assert torch.equal(grid.pack(Elsewhere(codes)), data)
    assert torch.equal(grid.unpack(Elsewhere(data), (1, 3)), codes)


def test_what_a_grid_has_to_say() -> None:
    """A grid from outside that forgets one of these cannot be made, rather than fail in the middle of a calibration."""
    assert Grid.__abstractmethods__ == {"dtype", "round", "near_boundary", "pack", "unpack"}
