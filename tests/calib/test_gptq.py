from __future__ import annotations

import pytest
import torch

from qvggt.calib.gptq import InputMoments, gptq_codes
from qvggt.formats.granularity import ROW
from qvggt.formats.grid import IntegerGrid
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.formats.tensor_format import TensorFormat

GRID = IntegerGrid(4, narrow=True)
ROWS = TensorFormat(GRID, ROW)


def moments_of(x: torch.Tensor) -> InputMoments:
    moments = InputMoments(x.shape[-1])
    for part in x.split(50):
        moments.update(part)
    return moments


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [24, 32] and 400 inputs whose channels are strongly correlated."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(32, 32, generator=generator)
    x = torch.randn(400, 8, generator=generator) @ mix[:8] + 0.1 * torch.randn(400, 32, generator=generator)
    return torch.randn(24, 32, generator=generator), x


def output_error(x: torch.Tensor, weight: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> float:
    return float((x @ (weight - codes.float() * scale).T).square().sum())


def test_beats_nearest_on_correlated_inputs(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, x = case
    scale = ROWS.scale(weight)
    codes = gptq_codes(weight, scale, GRID, moments_of(x))
    nearest = ROWS.codes(weight, scale)
    assert codes.abs().max() <= 7
    assert torch.equal(codes, codes.round())
    assert output_error(x, weight, codes, scale) < 0.5 * output_error(x, weight, nearest, scale)


def test_equals_nearest_on_independent_inputs() -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    scale = ROWS.scale(weight)
    moments = InputMoments(16)
    moments.update(torch.eye(16))
    assert torch.equal(gptq_codes(weight, scale, GRID, moments), ROWS.codes(weight, scale).double())


def test_takes_a_scale_per_weight(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, x = case
    rows = ROWS.scale(weight)
    blocks = rows.expand_as(weight)
    assert torch.equal(gptq_codes(weight, rows, GRID, moments_of(x)), gptq_codes(weight, blocks, GRID, moments_of(x)))


def test_moments_add_up_in_float64() -> None:
    """A product is fp32, as float64 ones are slow on GPUs; what comes after a large one is not lost."""
    moments = InputMoments(2)
    for row in ([4096.0, 0.0], *[[1.0, 0.5]] * 100):
        moments.update(torch.tensor([row]))
    assert moments.matrix.dtype == torch.float64
    assert moments.matrix.tolist() == [[4096.0**2 + 100, 50.0], [50.0, 25.0]]


def test_dead_channels_do_no_harm(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, x = case
    x = x.clone()
    x[:, 3:9] = 0
    assert gptq_codes(weight, ROWS.scale(weight), GRID, moments_of(x)).isfinite().all()
    assert gptq_codes(weight, ROWS.scale(weight), GRID, moments_of(torch.zeros_like(x))).isfinite().all()


@pytest.mark.parametrize("name", ["nvfp4", "fp8"])
def test_beats_nearest_on_a_floating_point_grid(name: str, case: tuple[torch.Tensor, torch.Tensor]) -> None:
    format = find_format(name)
    assert isinstance(format, LinearFormat)
    (weight, x), numbers = case, format.weight
    scale = numbers.granularity.expand(numbers.scale(weight), 32)
    codes = gptq_codes(weight, scale, numbers.grid, moments_of(x)).float()
    assert torch.equal(codes, codes.to(numbers.grid.dtype).float())
    assert float(codes.abs().max()) <= numbers.grid.highest
    nearest = numbers.codes(weight, numbers.scale(weight))
    assert output_error(x, weight, codes, scale) < 0.6 * output_error(x, weight, nearest, scale)
