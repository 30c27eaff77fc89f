from __future__ import annotations

import numpy as np
import pytest
import torch

from qvggt.calib.gptq import LAZY, InputMoments, fitted_codes, gptq_codes
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


def plain(weight: np.ndarray, scale: np.ndarray, matrix: np.ndarray, damping: float) -> np.ndarray:
    """The published algorithm as it is explained: column by column, no blocks of columns."""
    order = np.argsort(-matrix.diagonal(), kind="stable")
    hessian = matrix[order][:, order] + damping * matrix.diagonal().mean() * np.eye(len(matrix))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    rest, codes = weight[:, order].copy(), np.empty_like(weight)
    for i, column in enumerate(order):
        codes[:, column] = np.clip(np.round(rest[:, i] / scale[:, column]), GRID.lowest, GRID.highest)
        error = (rest[:, i] - codes[:, column] * scale[:, column]) / upper[i, i]
        rest[:, i + 1 :] -= np.outer(error, upper[i, i + 1 :])
    return codes


@pytest.mark.parametrize("width", [LAZY - 1, LAZY, 2 * LAZY + 40])
@pytest.mark.parametrize(("damping", "size"), [(0.01, 1.0), (0.5, 1.0), (0.01, 1e-3)])
def test_blocks_of_channels_change_no_code(width: int, damping: float, size: float) -> None:
    """From a quarter of the scale that holds a row on, so that codes saturate too; a scale for each weight. The size
    of the inputs is none of its business."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(500, 40, generator=generator) @ torch.randn(40, width, generator=generator)
    x = (x + torch.randn(500, width, generator=generator)) * torch.rand(width, generator=generator) * size
    weight = torch.randn(9, width, generator=generator)
    scale = ROWS.scale(weight) * (0.25 + torch.rand(9, width, generator=generator))
    moments = moments_of(x)
    expected = plain(weight.double().numpy(), scale.double().numpy(), moments.matrix.numpy(), damping)
    assert np.array_equal(gptq_codes(weight, scale, GRID, moments, damping).numpy(), expected)
    assert (np.abs(expected) == GRID.highest).mean() > 0.02


def test_moments_of_any_shape_and_the_usual_damping() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 4, 20, 6, generator=generator), torch.randn(5, 6, generator=generator)
    moments = InputMoments(6)
    moments.update(x)
    assert (moments.matrix - moments_of(x.reshape(-1, 6)).matrix).abs().max() < 1e-4
    scale = ROWS.scale(weight) * 3
    expected = plain(weight.double().numpy(), scale.double().expand(-1, 6).numpy(), moments.matrix.numpy(), 0.01)
    assert np.array_equal(gptq_codes(weight, scale, GRID, moments).numpy(), expected)


def test_channels_of_equal_energy_keep_their_order() -> None:
    """Normalised inputs and dead channels are such: another order is another rounding, so a run would not repeat."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 300, generator=generator, dtype=torch.float64)
    x[:, 1:] += x[:, :-1]
    moments, weight = InputMoments(300), torch.randn(4, 300, generator=generator)
    x /= x.norm(dim=0)
    moments.matrix = x.T @ x
    moments.matrix.fill_diagonal_(1.0)
    scale = ROWS.scale(weight).expand(-1, 300)
    expected = plain(weight.double().numpy(), scale.double().numpy(), moments.matrix.numpy(), 0.01)
    assert np.array_equal(gptq_codes(weight, scale, GRID, moments).numpy(), expected)


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


@pytest.mark.parametrize("at_once", [1 << 24, 24 * 32])  # all grids in one go, one after the other
def test_each_row_takes_its_best_grid(
    case: tuple[torch.Tensor, torch.Tensor], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qvggt.calib.gptq.AT_ONCE", at_once)
    weight, x = case
    weight[3, 5] = 20.0  # a row whose grid had better reach all the way
    scales = [ROWS.scale(weight) * ratio for ratio in (0.3, 0.7, 0.85, 1.0)]
    moments = moments_of(x)
    codes, chosen = fitted_codes(weight, scales, GRID, moments, 1e-6)
    alone = [gptq_codes(weight, scale, GRID, moments, 1e-6) for scale in scales]
    errors = torch.stack([(x @ (weight - c.float() * s).T).square().sum(0) for c, s in zip(alone, scales, strict=True)])
    assert torch.equal(chosen, errors.argmin(0))
    assert len(chosen.unique()) > 1
    assert torch.equal(codes, torch.stack(alone)[chosen, torch.arange(24)])
