"""SQNR as energies that pool."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt import QvggtError
from qvggt.eval.noise import Noise, compare, pooled


def test_known_values():
    assert compare(np.ones(10), np.full(10, 1.1)).sqnr_db == pytest.approx(20)
    assert compare(np.ones(3), np.ones(3)).sqnr_db == math.inf
    assert compare(np.zeros(3), np.ones(3)).sqnr_db == -math.inf
    assert compare(np.ones(2), np.array([1.0, np.nan])).sqnr_db == -math.inf
    assert compare(np.array([1.0, np.inf]), np.array([1.0, np.inf])).sqnr_db == -math.inf


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9))
def test_pooling_equals_concatenation(seed, split):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=10), rng.normal(size=10)
    parts = pooled([compare(a[:split], b[:split]), compare(a[split:], b[split:])])
    assert parts.sqnr_db == pytest.approx(compare(a, b).sqnr_db)


def test_energies_are_float64():
    big = np.full(2, 3e30, np.float32)
    assert compare(big, np.zeros(2, np.float32)).sqnr_db == pytest.approx(0)


def test_shapes_must_agree():
    with pytest.raises(QvggtError, match="expected shape"):
        compare(np.ones(2), np.ones((2, 1)))


def test_one_broken_part_breaks_the_pool():
    assert pooled([Noise(1.0, 0.0), Noise(0.0, math.inf)]).sqnr_db == -math.inf


def test_largest_error_and_percentile():
    reference = np.zeros(1000)
    reference[0] = -7
    other = reference.copy()
    other[:10] += np.arange(1, 11)  # 1 % of the values
    found = compare(reference, other)
    assert (found.max_error, found.p99, found.peak) == (10, 0, 7)
    other[10] += 0.5
    assert compare(reference, other).p99 == 0.5
    broken = compare(reference, np.full(1000, np.nan))
    assert (broken.max_error, broken.p99) == (math.inf, math.inf)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 399))
def test_the_pooled_percentile_is_bounded(seed, split):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=400), rng.standard_cauchy(size=400)
    parts = pooled([compare(a[:split], b[:split]), compare(a[split:], b[split:])])
    whole = compare(a, b)
    assert parts.p99 >= whole.p99
    assert (parts.max_error, parts.peak) == (whole.max_error, whole.peak)
    assert math.isnan(pooled([Noise(1, 1), whole]).p99)  # not measured somewhere: not known
