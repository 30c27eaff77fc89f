"""Paired bootstrap intervals: how sure a difference between two candidates on the same sequences is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def paired_interval(
    first: ArrayLike, second: ArrayLike, level: float = 0.95, draws: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """Interval of mean(second - first) over sequences, [N] each, by resampling sequences with replacement.

    With equally many view pairs per sequence the pooled AUC is the mean of the sequences' AUCs, so this is the
    interval of an AUC difference too. Raises ValueError for different or empty inputs.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"paired values of shapes {a.shape} and {b.shape}, expected two equal [N]")
    difference = b - a
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(difference), (draws, len(difference)))
    means = difference[picks].mean(1)
    tail = (1 - level) / 2
    return float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))
