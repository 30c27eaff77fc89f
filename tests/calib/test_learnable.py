"""The learnable linear computes exactly what the QuantLinear it becomes computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from qvggt.calib.gptq import InputMoments, gptq_codes
from qvggt.calib.learnable import LearnableLinear
from qvggt.calib.reconstruct import _weights_once
from qvggt.formats.grid import IntegerGrid
from qvggt.formats.table import find_format
from qvggt.models.token_types import token_types
from qvggt.quant.kronecker import KroneckerHadamard
from qvggt.quant.linear import QuantLinear

FORMS = [("w8a8", "dynamic"), ("w4a4", "dynamic"), ("w4a4", "static"), ("w4a16", "dynamic")]


def made(bits: str, activation: str, rotated: bool = False) -> tuple[LearnableLinear, nn.Linear, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(160, 24)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(24, 160, generator=generator))
        linear.bias.copy_(torch.randn(24, generator=generator))
    x = torch.randn(3, 20, 160, generator=generator) * torch.rand(160, generator=generator)
    format = find_format(bits, activation)  # type: ignore[arg-type]
    rotation = KroneckerHadamard(160, 3) if rotated else None
    return LearnableLinear(linear, format, rotation), linear, x


@pytest.fixture
def without_rounding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def clipped(grid: IntegerGrid, x: torch.Tensor, scale: torch.Tensor, _: bool = False) -> torch.Tensor:
        return (x / scale).clamp(grid.lowest, grid.highest)

    return lambda: monkeypatch.setattr(IntegerGrid, "round", clipped)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(("bits", "activation"), FORMS)
def test_finishes_as_what_it_was(bits: str, activation: str, rotated: bool) -> None:
    learnable, _, x = made(bits, activation, rotated)
    learnable.start_scale(x.abs().flatten(0, -2).amax(0), 0.5)
    learnable.search_weight_clips()
    learnable.search_act_clip(x)
    with torch.no_grad():
        expected = learnable(x)
        got = learnable.finish()(x)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("bits", "activation"), FORMS)
def test_without_rounding_it_is_the_linear(bits: str, activation: str, without_rounding: Callable[[], None]) -> None:
    """Scale and rotation cancel: only the rounding and the clips change a number."""
    learnable, linear, x = made(bits, activation, rotated=True)
    learnable.start_scale(x.abs().flatten(0, -2).amax(0), 0.5)
    learnable.start_at_extremes(x, 1 - 1e-7)
    without_rounding()
    with torch.no_grad():
        assert torch.allclose(learnable(x), linear(x), atol=1e-4)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(("bits", "activation"), FORMS[:3])
def test_centered_it_finishes_as_what_it_was(bits: str, activation: str, rotated: bool) -> None:
    _, linear, x = made(bits, activation)
    rotation = KroneckerHadamard(160, 3) if rotated else None
    format = find_format(bits, activation)  # type: ignore[arg-type]
    learnable = LearnableLinear(linear, format, rotation)
    types = torch.arange(20) % 3
    means = torch.stack([x[:, types == t].flatten(0, -2).mean(0) for t in range(3)])
    learnable.start_center(means)
    with token_types(types):
        rows = learnable.centered(x)
    assert rows[:, types == 1].flatten(0, -2).mean(0).abs().max() < 1e-5
    learnable.start_scale(rows.abs().flatten(0, -2).amax(0), 0.5)
    learnable.search_weight_clips()
    learnable.search_act_clip(rows)
    rows_scale = torch.rand(24) + 0.5
    with torch.no_grad():
        final = learnable.finish(row_scale=rows_scale)
        assert final.types == 3
        with token_types(types):
            expected = learnable(x)
            assert (final(x) - expected * rows_scale).abs().max() < 1e-4 * expected.abs().max()
        for linear in (learnable, final):
            with pytest.raises(ValueError, match="types"):
                linear(x)


def test_centers_are_exact_without_rounding(without_rounding: Callable[[], None]) -> None:
    """What the means contribute is computed with the float weight, whatever the grid does to the rest."""
    learnable, linear, x = made("w4a4", "dynamic", rotated=True)
    types = torch.arange(20) % 2
    learnable.start_center(torch.randn(2, 160))
    with torch.no_grad(), token_types(types):
        constant = learnable.center[types].expand_as(x)
        assert torch.allclose(learnable(constant), linear(constant), atol=1e-4)
        without_rounding()
        learnable.start_at_extremes(learnable.centered(x), 1 - 1e-7)
        assert torch.allclose(learnable(x), linear(x), atol=1e-4)


def test_gradients_of_types_are_the_same_on_every_run() -> None:
    """With several threads: many tokens of few types, whose gradients one bias adds up."""
    torch.set_num_threads(4)
    learnable, _, _ = made("w8a8", "dynamic")
    learnable.start_center(torch.zeros(3, 160))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2000, 160, generator=generator)
    wanted = torch.randn(4, 2000, 24, generator=generator)
    types = torch.arange(8000).view(4, 2000) % 3
    assert learnable.kind_bias is not None
    gradients = []
    for _ in range(6):
        learnable.kind_bias.grad = None
        with token_types(types):
            (learnable(x) * wanted).sum().backward()
        assert learnable.kind_bias.grad is not None
        gradients.append(learnable.kind_bias.grad.clone())
    assert all(torch.equal(g, gradients[0]) for g in gradients)


def test_scales_start_flat_and_balanced() -> None:
    learnable, _, x = made("w4a4", "dynamic")
    learnable.start_scale(x.abs().flatten(0, -2).amax(0), 0.5)
    assert learnable.log_scale.mean().abs() < 1e-5
    spread_before = x.abs().flatten(0, -2).amax(0)
    spread_after = learnable.transformed(x).abs().flatten(0, -2).amax(0)
    assert (spread_after.max() / spread_after.min()) < (spread_before.max() / spread_before.min())


def test_searched_clips_lower_the_error() -> None:
    learnable, linear, x = made("w4a4", "dynamic")
    learnable.start_at_extremes(x, 1 - 1e-7)
    with torch.no_grad():
        plain = (learnable(x) - linear(x)).square().mean()
        learnable.search_weight_clips()
        learnable.search_act_clip(x)
        assert (learnable(x) - linear(x)).square().mean() < plain


def test_every_parameter_gets_a_gradient() -> None:
    for bits, activation in FORMS[1:3]:
        learnable, linear, x = made(bits, activation)
        learnable.search_act_clip(x)
        (learnable(x) - linear(x)).square().mean().backward()
        names = ["log_scale", "clip_low", "clip_high", "act_clip" if activation == "dynamic" else "log_amax"]
        for name in names:
            gradient = getattr(learnable, name).grad
            assert gradient is not None, name
            assert gradient.abs().sum() > 0, name


def test_value_rows_shrink_without_new_codes() -> None:
    learnable, _, x = made("w4a4", "dynamic")
    factor = torch.rand(24) + 0.5
    plain, scaled = learnable.finish(), learnable.finish(row_scale=factor)
    assert torch.equal(plain.codes, scaled.codes)
    assert torch.allclose(scaled(x), plain(x) * factor, atol=1e-5)


@pytest.mark.parametrize(("bits", "activation"), [("fp8", "static"), ("fp8", "dynamic"), ("nvfp4", "dynamic")])
def test_floating_point_finishes_as_what_it_was(bits: str, activation: str) -> None:
    learnable, linear, x = made(bits, activation)
    learnable.start_scale(x.flatten(0, -2).abs().amax(0), 0.5)
    learnable.search_weight_scales(torch.ones(160))
    learnable.search_act_clip(x)
    with torch.no_grad():
        expected, got, exact = learnable(x), learnable.finish()(x), linear(x)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
    assert 0 < float((got - exact).norm() / exact.norm()) < (0.2 if bits == "nvfp4" else 0.05)


@pytest.mark.parametrize("bits", ["fp8", "nvfp4", "w4afp8"])
def test_constant_ranges_have_the_room_of_their_grid(bits: str) -> None:
    """However they are found, and as round-to-nearest has them."""
    learnable, linear, x = made(bits, "static")
    amax = float(x.abs().max())
    nearest = QuantLinear.from_float(linear, learnable.format, amax)
    assert float(nearest.act_amax) == pytest.approx(8 * amax)
    learnable.search_act_clip(x)
    assert float(learnable.finish().act_amax) == pytest.approx(8 * amax, rel=1e-5)
    learnable.start_at_extremes(x, 1 - 1e-7)
    assert float(learnable.finish().act_amax) == pytest.approx(8 * amax, rel=1e-5)
    assert not learnable.log_amax.requires_grad
    assert made("w4a4", "static")[0].log_amax.requires_grad


def test_scales_of_blocks_are_searched_where_inputs_are_large() -> None:
    learnable, linear, x = made("nvfp4", "dynamic")
    energy = x.flatten(0, -2).square().mean(0)
    format = learnable.format.weight

    def error() -> float:
        return float(((learnable.quantized_weight() - linear.weight).detach().square() * energy).sum())

    plain = learnable.finish()
    before = error()
    learnable.search_weight_scales(energy)
    assert error() < 0.9 * before
    found = learnable.finish()
    codes, outer = format.split_scale(found.weight_scale)
    torch.testing.assert_close(codes * outer, found.weight_scale, rtol=1e-6, atol=0)  # they stay on their grid
    assert codes.amax(-1).eq(448).all()
    wanted = learnable.ratio * format.granularity.amax(linear.weight.detach()) / 6
    torch.testing.assert_close(found.weight_scale, wanted, rtol=1e-6, atol=0)  # what was searched is what is used
    assert not torch.equal(codes, format.split_scale(plain.weight_scale)[0])
    # a factor of the row, such as proj's smoothing on the value rows, changes no code
    factors = torch.rand(24) + 0.1
    scaled = learnable.finish(row_scale=factors)
    assert torch.equal(format.split_scale(scaled.weight_scale)[0], codes)
    assert torch.equal(scaled.codes.float(), found.codes.float())


@pytest.mark.parametrize("bits", ["w4a8-dynamic", "w4a16b32", "w8a8-dynamic"])
def test_fitted_codes_are_those_that_finish(bits: str) -> None:
    """On grids of their own, and nearer to the product than those of the searched clips."""
    _, linear, x = made("w4a4", "dynamic")
    moments = InputMoments(160)
    moments.update(x)
    errors = []
    for fitted in (False, True):
        learnable = LearnableLinear(linear, find_format(bits))  # type: ignore[arg-type]
        learnable.search_weight_clips()
        if fitted:
            learnable.fit_codes(moments)
        else:
            weight = learnable.clipped_weight().detach()
            format, scale = learnable.format.weight, learnable.weight_scale(weight).detach()
            learnable.codes = gptq_codes(weight, format.granularity.expand(scale, 160), format.grid, moments)
        with torch.no_grad():
            codes, final = learnable.codes, learnable.finish()
            assert codes is not None
            assert torch.equal(final.codes, codes.to(torch.int8))
            assert torch.allclose(final.weight_dequantized(), learnable.quantized_weight())
            errors.append(float((x @ (final.weight_dequantized() - linear.weight).T).square().sum()))
    assert errors[1] < 0.9 * errors[0]


def test_weights_made_once_get_the_gradients_of_all_passes() -> None:
    learnable, linear, x = made("w4a4", "dynamic")
    learnable.search_act_clip(x)

    def gradients() -> list[torch.Tensor]:
        for part in x:
            (learnable(part) - linear(part)).square().mean().backward()
        return [p.grad for p in (learnable.weight, learnable.clip_low, learnable.log_scale) if p.grad is not None]

    plain = gradients()
    learnable.zero_grad()
    with _weights_once([learnable]):
        gradients()
    assert learnable.held is None
    once = [p.grad for p in (learnable.weight, learnable.clip_low, learnable.log_scale) if p.grad is not None]
    assert len(plain) == len(once) == 3
    for got, expected in zip(once, plain, strict=True):
        torch.testing.assert_close(got, expected)
