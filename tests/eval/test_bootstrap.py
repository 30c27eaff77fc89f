from __future__ import annotations

import numpy as np
import pytest

from qvggt.eval.bootstrap import paired_interval


def test_covers_the_true_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        a = rng.normal(size=60)
        low, high = paired_interval(a, a + rng.normal(0.5, 1, 60), draws=500, seed=trial)
        hits += low < 0.5 < high
    assert 180 <= hits <= 198


def test_pairing_takes_out_what_both_share() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(0, 100, 50)
    low, high = paired_interval(a, a + 1)
    assert low == pytest.approx(1)
    assert high == pytest.approx(1)


def test_seeded() -> None:
    a, b = np.arange(10.0), np.arange(10.0) ** 1.1
    assert paired_interval(a, b, seed=3) == paired_interval(a, b, seed=3)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])])
def test_refuses_what_is_not_paired(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_interval(a, b)
