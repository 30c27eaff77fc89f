from __future__ import annotations

import numpy as np
import pytest

from qvggt.eval.bootstrap import Bootstrap
from qvggt.eval.metrics import Column


def test_covers_the_true_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        a = rng.normal(size=60)
        b = a + rng.normal(0.5, 1, 60)
        low, high = Bootstrap(draws=500, seed=trial).paired(Column.of(a), Column.of(b)) or (0, 0)
        hits += low < 0.5 < high
    assert 180 <= hits <= 198


def test_pairing_takes_out_what_both_share() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(0, 100, 50)
    low, high = Bootstrap().paired(Column.of(a), Column.of(a + 1)) or (0, 0)
    assert low == pytest.approx(1)
    assert high == pytest.approx(1)


def test_seeded() -> None:
    a, b = Column.of(np.arange(10.0)), Column.of(np.arange(10.0) ** 1.1)
    assert Bootstrap(seed=3).paired(a, b) == Bootstrap(seed=3).paired(a, b)


def column(
    values: list[float] | np.ndarray, groups: list[int] | None = None, weights: list[float] | None = None
) -> Column:
    count = len(values)
    return Column(
        np.asarray(values, np.float64),
        np.ones(count) if weights is None else np.array(weights, np.float64),
        np.zeros(count, np.int64) if groups is None else np.array(groups),
    )


def test_groups_average_with_equal_weight_and_members_by_theirs() -> None:
    assert column([1, 4, 7], [0, 0, 1], [1, 2, 9]).figure() == pytest.approx((3 + 7) / 2)
    counts = np.array([[2.0, 1, 0], [0, 0, 3], [1, 0, 2]])
    found = column([1, 4, 7], [0, 0, 1], [1, 2, 9]).resampled(counts)
    assert found == pytest.approx([(2 * 1 + 2 * 4) / 4, 7, (1 + 7) / 2])  # a group that was not drawn is left out


def test_interval_covers_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = Bootstrap(draws=400, seed=trial).interval(column(rng.normal(3, 1, 60))) or (0, 0)
        hits += low < 3 < high
    assert 178 <= hits <= 198


def test_paired_interval_of_columns_takes_out_what_both_share() -> None:
    values = np.random.default_rng(1).normal(0, 100, 50)
    groups = [i % 3 for i in range(50)]
    low, high = Bootstrap().paired(column(values, groups), column(values + 1, groups)) or (0, 0)
    assert (low, high) == (pytest.approx(1), pytest.approx(1))
    wide = Bootstrap().interval(column(values, groups)) or (0, 0)
    assert wide[1] - wide[0] > 30


def test_paired_columns_agree_with_plain_resampling() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=80), rng.normal(size=80)
    plain = np.quantile((b - a)[rng.integers(0, 80, (20_000, 80))].mean(1), [0.025, 0.975])
    assert Bootstrap(draws=20_000).paired(Column.of(a), Column.of(b)) == pytest.approx(plain, abs=0.02)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = column(np.arange(9.0))
    whole = Bootstrap(draws=50).interval(values)
    monkeypatch.setattr("qvggt.eval.bootstrap.CHUNK", 20)
    assert Bootstrap(draws=50).interval(values) == whole


def test_one_sequence_has_no_interval_and_a_failed_one_none_either() -> None:
    assert Bootstrap().interval(column([1.0])) is None
    assert np.isnan(Bootstrap().interval(column([1.0, np.nan])) or (0, 0)).all()
    assert Bootstrap().paired(column([1.0, 2]), column([1.0])) is None
    assert Bootstrap().paired(None, column([1.0, 2])) is None
