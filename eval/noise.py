"""How far one candidate's outputs are from another's, as signal and noise energy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError


@dataclass(frozen=True)
class Noise:
    """signal: sum of squares of the reference; noise: of the difference (inf when either is not finite)."""

    signal: float
    noise: float

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise): inf for equal arrays, -inf where a value is not finite or the reference is 0."""
        if self.noise == 0:
            return math.inf
        if not math.isfinite(self.noise) or self.signal == 0:
            return -math.inf
        return 10 * math.log10(self.signal / self.noise)


def compare(reference: NDArray[Any], other: NDArray[Any]) -> Noise:
    """Energies in float64 of two arrays of one shape."""
    if reference.shape != other.shape:
        raise QvggtError(f"outputs to compare: expected shape {list(reference.shape)}, got {list(other.shape)}")
    truth, approximation = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    if not (np.isfinite(truth).all() and np.isfinite(approximation).all()):
        return Noise(0.0, math.inf)
    return Noise(float(np.square(truth).sum()), float(np.square(truth - approximation).sum()))


def pooled(parts: Iterable[Noise]) -> Noise:
    """Over several sequences together: energies add."""
    items = list(parts)
    return Noise(math.fsum(item.signal for item in items), math.fsum(item.noise for item in items))
