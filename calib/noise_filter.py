"""Which sequences of a pool are noise, by statistics of their deep features.

The published code puts Tukey fences (1.5 interquartile ranges) around each statistic once, and then ignores the result
(spec/quantvggt.md section 0, fact 6). Fences drawn once also fail as a filter: outliers widen them, and with many
statistics one in ten good sequences violates some fence. Here the fences are fitted to the sequences they accept,
starting from the most ordinary half, and their width follows from the share of good sequences that may be lost.
`tools/bench_selection.py` measures both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ROUNDS = 50  # refits; a handful is usual
_FLOOR = 1e-6  # a spread below this part of the largest value is float rounding


@dataclass(frozen=True)
class Finding:
    """The statistic by which a sequence is farthest out; it was expected in [low, high].

    statistic: index into the columns of the table. value: None where it is no finite number. low, high: None where
    there were too few sequences to judge by.
    """

    statistic: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Fences:
    """Accepted range of each statistic, both [P]; `centre` and `spread` of the accepted sequences."""

    centre: Array
    spread: Array
    width: float

    @property
    def low(self) -> Array:
        return self.centre - self.width * self.spread

    @property
    def high(self) -> Array:
        return self.centre + self.width * self.spread

    def distance(self, table: Array) -> Array:
        """|value - centre| / spread, [N, P]; infinite where the value is no finite number."""
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(np.abs(table - self.centre) / self.spread, nan=np.inf)

    def findings(self, table: Array) -> list[Finding | None]:
        """Per sequence: None when every statistic is inside, else the worst one."""
        distance = self.distance(table)
        findings: list[Finding | None] = []
        for row, far in zip(table, distance, strict=True):
            worst = int(far.argmax())
            if far[worst] <= self.width:
                findings.append(None)
                continue
            value = float(row[worst]) if np.isfinite(row[worst]) else None
            findings.append(Finding(worst, value, float(self.low[worst]), float(self.high[worst])))
        return findings


def fit_fences(table: Array, false_alarm: float = 0.05) -> Fences:
    """Fences of a table [N, P] of N >= 3 sequences and P statistics; rows with non-finite values have no say.

    All statistics in one unit, of like size: a spread of a millionth of the largest is taken for rounding.
    `false_alarm`: the share of good sequences that may be rejected (by any of the P statistics). Assumes that more
    than half of the sequences are good.
    """
    finite = table[np.isfinite(table).all(axis=1)]
    middle = np.median(finite, axis=0)
    start = Fences(middle, _floored(1.4826 * np.median(np.abs(finite - middle), axis=0), middle), 0.0)
    ordinary = np.argsort(start.distance(finite).max(axis=1), kind="stable")[: len(finite) // 2 + 1]
    accepted = np.zeros(len(finite), dtype=bool)
    accepted[ordinary] = True
    fences = start
    for _ in range(_ROUNDS):
        core = finite[accepted]
        centre = core.mean(axis=0)
        spread = _floored(core.std(axis=0, ddof=1), centre)
        fences = Fences(centre, spread, fence_width(len(core), table.shape[1], false_alarm))
        now = fences.distance(finite).max(axis=1) <= fences.width
        if np.array_equal(now, accepted):
            break
        accepted = now
    return fences


def fence_width(count: int, statistics: int, false_alarm: float) -> float:
    """Half width of a fence in standard deviations of `count` accepted sequences.

    The prediction interval of one more normal value, at level `false_alarm` shared among the statistics (Bonferroni):
    t_{count - 1}(1 - false_alarm / 2 statistics) sqrt(1 + 1 / count). It widens for small pools, where a spread is
    uncertain, instead of rejecting half of them.
    """
    from scipy.stats import t

    return float(t.ppf(1 - false_alarm / (2 * statistics), count - 1) * np.sqrt(1 + 1 / count))


def find_noise(
    table: Array, groups: Sequence[str], minimum: int = 8, false_alarm: float = 0.05
) -> list[Finding | None]:
    """Findings of each row of `table` [N, P], judged among the rows of its own group (category).

    A group of fewer than `minimum` rows is judged by the fences of the whole table. A table that small has none:
    only values that are no finite number are found then.
    """
    labels = np.array(groups)
    findings: list[Finding | None] = [None] * len(table)
    small = [name for name in sorted(set(groups)) if np.isfinite(table[labels == name]).all(1).sum() < minimum]
    for name in sorted(set(groups)):
        rows = np.flatnonzero(labels == name)
        judges = table if name in small else table[rows]
        for row, finding in zip(rows, _judge(table[rows], judges, minimum, false_alarm), strict=True):
            findings[row] = finding
    return findings


def _judge(table: Array, judges: Array, minimum: int, false_alarm: float) -> list[Finding | None]:
    if np.isfinite(judges).all(axis=1).sum() >= max(minimum, 3):
        return fit_fences(judges, false_alarm).findings(table)
    bad = ~np.isfinite(table)
    return [Finding(int(row.argmax()), None, None, None) if row.any() else None for row in bad]


def _floored(spread: Array, centre: Array) -> Array:
    return np.maximum(spread, _FLOOR * np.abs(centre).max() + np.finfo(np.float64).tiny)
