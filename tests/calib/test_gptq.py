from __future__ import annotations

import pytest
import torch

from qvggt.calib.gptq import InputMoments, compensated, gptq_codes
from qvggt.formats.rounding import weight_codes, weight_scale


def moments_of(x: torch.Tensor, z: torch.Tensor | None = None) -> InputMoments:
    moments = InputMoments(x.shape[-1])
    for part, other in zip(x.split(50), (x if z is None else z).split(50), strict=True):
        moments.update(part, other)
    return moments


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [24, 32] and 400 inputs whose channels are strongly correlated."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(32, 32, generator=generator)
    x = torch.randn(400, 8, generator=generator) @ mix[:8] + 0.1 * torch.randn(400, 32, generator=generator)
    return torch.randn(24, 32, generator=generator), x


def output_error(x: torch.Tensor, weight: torch.Tensor, codes: torch.Tensor, step: torch.Tensor) -> float:
    return float((x @ (weight - codes.float() * step).T).square().sum())


def test_beats_nearest_on_correlated_inputs(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, x = case
    step = weight_scale(weight, 4)
    codes = gptq_codes(weight, step, 4, moments_of(x))
    nearest = weight_codes(weight, step, 4)
    assert codes.abs().max() <= 7
    assert torch.equal(codes, codes.round())
    assert output_error(x, weight, codes, step) < 0.5 * output_error(x, weight, nearest, step)


def test_equals_nearest_on_independent_inputs() -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    step = weight_scale(weight, 4)
    moments = InputMoments(16)
    moments.update(torch.eye(16), torch.eye(16))
    assert torch.equal(gptq_codes(weight, step, 4, moments), weight_codes(weight, step, 4).double())


def test_takes_a_step_per_weight(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, x = case
    rows = weight_scale(weight, 4)
    blocks = rows.expand_as(weight)
    assert torch.equal(gptq_codes(weight, rows, 4, moments_of(x)), gptq_codes(weight, blocks, 4, moments_of(x)))


def test_dead_channels_do_no_harm(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, x = case
    x = x.clone()
    x[:, 3:9] = 0
    assert gptq_codes(weight, weight_scale(weight, 4), 4, moments_of(x)).isfinite().all()
    assert gptq_codes(weight, weight_scale(weight, 4), 4, moments_of(torch.zeros_like(x))).isfinite().all()


def test_compensation_absorbs_a_linear_error(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Inputs scaled by 0.9 are what a clip does; the weight must grow to make up for it."""
    weight, x = case
    moved = compensated(weight, moments_of(0.9 * x, x), 1e-6)
    wanted = x @ weight.T
    assert ((0.9 * x) @ moved.T - wanted).norm() < 1e-3 * wanted.norm()
    assert torch.allclose(compensated(weight, moments_of(x), 0.01), weight, atol=1e-5)
    assert torch.allclose(compensated(weight, moments_of(0.9 * x, x), 1e9), weight, atol=1e-5)
