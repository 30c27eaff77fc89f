"""Bootstrap intervals over sequences: how sure a figure, or a difference between two candidates, is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvggt.eval.metrics import Column

CHUNK = 1 << 24  # counts held at a time


@dataclass(frozen=True)
class Bootstrap:
    """Sequences are drawn with replacement from the whole set, the same draws for every candidate and figure."""

    level: float = 0.95
    draws: int = 4000
    seed: int = 0

    def interval(self, column: Column) -> tuple[float, float] | None:
        """Of the figure itself; None for fewer than two sequences, NaN when a value is not finite."""
        return self._interval(column, None)

    def paired(self, first: Column | None, second: Column | None) -> tuple[float, float] | None:
        """Of figure(second) - figure(first) on the same sequences in the same order; None when they differ in number
        (a sequence that only one could be measured on), or one is not there."""
        if first is None or second is None or len(first.values) != len(second.values):
            return None
        return self._interval(second, first)

    def _interval(self, column: Column, base: Column | None) -> tuple[float, float] | None:
        count = len(column.values)
        if count < 2:
            return None
        if not np.isfinite(column.values).all() or (base is not None and not np.isfinite(base.values).all()):
            return float("nan"), float("nan")
        rng = np.random.default_rng(self.seed)
        figures: list[NDArray[np.float64]] = []
        remaining = self.draws
        while remaining > 0:
            size = min(remaining, max(1, CHUNK // count))
            counts = rng.multinomial(count, np.full(count, 1 / count), size).astype(np.float64)
            drawn = column.resampled(counts)
            figures.append(drawn if base is None else drawn - base.resampled(counts))
            remaining -= size
        tail = (1 - self.level) / 2
        low, high = np.quantile(np.concatenate(figures), [tail, 1 - tail])
        return float(low), float(high)
