"""How far one candidate's outputs are from another's: signal and noise energy, largest error, 99th percentile."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.sqnr import decibels


@dataclass(frozen=True)
class Noise:
    """signal: sum of squares of the reference; noise: of the difference (inf when either is not finite).

    max_error: largest |difference|; p99: 99 % of the |differences| are no larger; peak: largest |reference|. Units of
    the output; NaN where not measured, max_error and p99 inf when a value is not finite.
    """

    signal: float
    noise: float
    max_error: float = math.nan
    p99: float = math.nan
    peak: float = math.nan

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise): inf for equal arrays, -inf where a value is not finite or the reference is 0."""
        return decibels(self.signal, self.noise)


def compare(reference: NDArray[Any], other: NDArray[Any]) -> Noise:
    """Figures in float64 of two arrays of one shape."""
    if reference.shape != other.shape:
        raise QvggtError(f"outputs to compare: expected shape {list(reference.shape)}, got {list(other.shape)}")
    truth, approximation = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    if not (np.isfinite(truth).all() and np.isfinite(approximation).all()):
        return Noise(0.0, math.inf, math.inf, math.inf)
    error = np.abs(truth - approximation)
    return Noise(
        signal=float(np.square(truth).sum()),
        noise=float(np.square(error).sum()),
        max_error=float(error.max(initial=0.0)),
        p99=float(np.quantile(error, 0.99, method="inverted_cdf")) if error.size else 0.0,
        peak=float(np.abs(truth).max(initial=0.0)),
    )


def pooled(parts: Iterable[Noise]) -> Noise:
    """Over several sequences together: energies add, of the rest the largest counts.

    At most 1 % of the errors of any sequence exceed the largest p99, so it bounds the pooled 99th percentile.
    """
    items = list(parts)
    return Noise(
        signal=math.fsum(item.signal for item in items),
        noise=math.fsum(item.noise for item in items),
        max_error=_largest([item.max_error for item in items]),
        p99=_largest([item.p99 for item in items]),
        peak=_largest([item.peak for item in items]),
    )


def _largest(values: list[float]) -> float:
    """NaN (not measured) as soon as one is."""
    return math.nan if not values or any(math.isnan(value) for value in values) else max(values)
