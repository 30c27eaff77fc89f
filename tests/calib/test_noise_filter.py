"""Noise filter on tables of statistics: what it finds, what it leaves, small and degenerate pools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qvggt.calib.noise_filter import Finding, fence_width, find_noise, fit_fences

Array = NDArray[np.float64]
STATISTICS = 24


def good(count: int, seed: int = 0) -> Array:
    """Correlated statistics, as those of neighbouring layers are."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 1)) + rng.normal(size=(count, STATISTICS)) + 10


def planted(count: int, distance: float = 12.0, statistic: int = 5) -> Array:
    table = good(count, seed=99)
    table[:, statistic] = 10 + distance * np.sqrt(2) * np.where(np.arange(count) % 2, 1, -1)
    return table


def rejected(found: list[Finding | None]) -> list[int]:
    return [i for i, finding in enumerate(found) if finding is not None]


@pytest.mark.parametrize(("count", "bad"), [(12, 2), (48, 5), (48, 20), (48, 40), (400, 20)])
def test_finds_all_planted_and_few_good(count: int, bad: int) -> None:
    alarms = []
    for seed in range(10):
        found = find_noise(np.concatenate([good(count, seed), planted(bad)]), ["a"] * (count + bad))
        assert set(range(count, count + bad)) <= set(rejected(found))
        assert all(f.statistic == 5 for f in found[count:] if f is not None)
        alarms.append(len(rejected(found[:count])) / count)
    assert np.mean(alarms) <= 0.08


def test_finds_what_widens_the_published_fences() -> None:
    """A third of outliers on one side moves the upper quartile onto them."""
    table = np.concatenate([good(48), np.full((24, STATISTICS), 25.0)])
    low, high = np.percentile(table, [25, 75], axis=0)
    assert (table[48:] <= high + 1.5 * (high - low)).all()
    assert set(range(48, 72)) <= set(rejected(find_noise(table, ["a"] * 72)))


@settings(deadline=None, max_examples=25)
@given(order=st.permutations(range(30)), shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
def test_order_and_units_do_not_matter(order: list[int], shift: float, scale: float) -> None:
    table = np.concatenate([good(26), planted(4)])
    expected = rejected(find_noise(table, ["a"] * 30))
    found = rejected(find_noise(table[order] * scale + shift * scale, ["a"] * 30))
    assert sorted(order[i] for i in found) == expected


def test_each_category_is_judged_by_its_own() -> None:
    """A stranger of category a that would be ordinary in category b."""
    table = np.concatenate([good(20), good(20, 1) + 100, good(1, 2) + 100])
    groups = ["a"] * 20 + ["b"] * 20
    assert rejected(find_noise(table, [*groups, "b"], false_alarm=1e-4)) == []
    assert rejected(find_noise(table, [*groups, "a"], false_alarm=1e-4)) == [40]


def test_small_categories_are_judged_by_the_whole_pool() -> None:
    table = np.concatenate([good(20), good(3, 1), planted(1)])
    groups = ["a"] * 20 + ["b"] * 4
    assert rejected(find_noise(table, groups, false_alarm=1e-4)) == [23]
    assert rejected(find_noise(table[20:], groups[20:])) == []  # four in all: nothing to judge by


def test_what_is_no_number_is_noise_even_in_a_tiny_pool() -> None:
    table = good(3)
    table[1, 4] = np.nan
    table[2, 7] = np.inf
    assert find_noise(table, ["a", "a", "b"]) == [None, Finding(4, None, None, None), Finding(7, None, None, None)]
    many = good(20)
    many[3, 2] = -np.inf
    found = find_noise(many, ["a"] * 20)[3]
    assert found is not None
    assert (found.statistic, found.value) == (2, None)
    assert found.low is not None
    assert np.isfinite(found.low)


def test_identical_sequences_are_not_noise() -> None:
    table = np.tile(good(1), (12, 1))
    table[::2] *= 1 + 1e-12
    assert rejected(find_noise(table, ["a"] * 12)) == []
    table[4] += 1.0
    assert rejected(find_noise(table, ["a"] * 12)) == [4]


def test_rounding_of_a_constant_statistic_is_not_noise() -> None:
    """Such as the mean of what a LayerNorm just made."""
    table = good(20)
    table[:, 3] = 1e-9 * np.random.default_rng(0).standard_cauchy(20)
    table[7, 3] = 1e-6
    assert rejected(find_noise(table, ["a"] * 20, false_alarm=1e-4)) == []


def test_accepted_values_lie_inside_the_fences_and_rejected_outside() -> None:
    table = np.concatenate([good(40), planted(6)])
    fences = fit_fences(table)
    for row, finding in zip(table, fences.findings(table), strict=True):
        inside = bool(((row >= fences.low) & (row <= fences.high)).all())
        assert inside == (finding is None)
        if finding is not None:
            assert finding.value == row[finding.statistic]
            assert not finding.low <= finding.value <= finding.high  # type: ignore[operator]


def test_fence_width_is_a_prediction_interval() -> None:
    """The share of new normal samples outside fences of n others, by simulation."""
    rng = np.random.default_rng(0)
    core, new = rng.normal(size=(20_000, 6)), rng.normal(size=20_000)
    distance = np.abs(new - core.mean(1)) / core.std(1, ddof=1)
    assert np.mean(distance > fence_width(6, 1, 0.1)) == pytest.approx(0.1, abs=0.01)
    assert fence_width(6, 24, 0.02) > fence_width(60, 24, 0.02) > fence_width(60, 24, 0.2)
