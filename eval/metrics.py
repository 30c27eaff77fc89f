"""The figures of a report: what each is of a sequence, how sequences pool, and which way is better.

Pose figures pool the view pairs of a category and average the categories (spec evaluation.md 4.2): the pooled figure is
the mean of the sequences' figures weighted by their pairs, since each is a mean over pairs. Depth figures average the
sequences of a category, then the categories. Point figures average all sequences, as published (4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvggt.errors import QvggtError
from qvggt.eval.pose import THRESHOLDS, PoseErrors, accuracy, auc
from qvggt.mapping import Check

if TYPE_CHECKING:
    from qvggt.eval.result import SequenceRecord

Digits = Annotated[int, Check("a count of digits", lambda value: 0 <= value <= 12)]


@dataclass(frozen=True)
class MetricWords:
    """What a report says of a metric."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    digits: Digits
    pooling: Literal["categories", "sequences"] = "categories"


@dataclass(frozen=True, kw_only=True)
class Metric(MetricWords):
    """value(record): figure of one sequence in `unit`, None without data. weight(record): within its category."""

    value: Callable[[SequenceRecord], float | None]
    weight: Callable[[SequenceRecord], float] = lambda record: 1.0

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {field.name: getattr(self, field.name) for field in fields(MetricWords)}


@dataclass(frozen=True)
class Column:
    """One metric over N records: values, weights float64 [N], groups int [N] (category, or all alike)."""

    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    groups: NDArray[np.int64]

    @classmethod
    def of(cls, values: ArrayLike) -> Column:
        """Of N values that count alike."""
        array = np.asarray(values, np.float64)
        return cls(array, np.ones(len(array)), np.zeros(len(array), np.int64))

    def figure(self) -> float:
        """Weighted mean of each group, then the mean of the groups."""
        return float(self.resampled(np.ones((1, len(self.values))))[0])

    def resampled(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The figure when record n is taken counts[d, n] times, counts [D, N] -> [D]; empty groups are left out."""
        member = np.eye(int(self.groups.max()) + 1)[self.groups]  # [N, G]
        weight = counts @ (member * self.weights[:, None])
        # no product: an infinite value is infinite in its own group alone
        total = counts @ np.where(member, (self.weights * self.values)[:, None], 0)
        present = weight > 0
        means = np.where(present, total / np.where(present, weight, 1), 0)
        return np.asarray(means.sum(1) / present.sum(1))


def column(metric: Metric, records: Sequence[SequenceRecord]) -> Column | None:
    """Records without the metric are left out; None when all are."""
    kept = [(record, value) for record in records if (value := metric.value(record)) is not None]
    if not kept:
        return None
    categories = list(dict.fromkeys(record.category for record, _ in kept))
    groups = [categories.index(record.category) if metric.pooling == "categories" else 0 for record, _ in kept]
    return Column(
        np.array([value for _, value in kept], np.float64),
        np.array([metric.weight(record) for record, _ in kept], np.float64),
        np.array(groups, np.int64),
    )


def figure(name: str, records: Sequence[SequenceRecord]) -> float | None:
    """A metric by name over records; None when no record has it."""
    own = column(BY_NAME[name], records)
    return None if own is None else own.figure()


def pose_auc(sequences: Sequence[PoseErrors], thresholds: Sequence[int] = THRESHOLDS) -> dict[int, float]:
    """AUC of the larger of rotation and translation error, the pairs of all sequences pooled as those of one category:
    threshold -> [0, 1]. QvggtError without a sequence."""
    if not sequences:
        raise QvggtError("pose AUC: expected at least one sequence, got none")
    pairs = np.array([len(errors.worst_deg) for errors in sequences], np.float64)
    one = np.zeros(len(sequences), np.int64)
    return {t: Column(np.array([auc(e.worst_deg, t) for e in sequences]), pairs, one).figure() for t in thresholds}


Kind = tuple[str, Literal["higher", "lower"], int, Literal["categories", "sequences"]]
HUNDRED: Kind = ("points 0-100", "higher", 2, "categories")
LENGTH: Kind = ("unit of the truth (m; of DTU mm)", "lower", 4, "sequences")
COSINE: Kind = ("0-1", "higher", 4, "sequences")


def _pairs(record: SequenceRecord) -> float:
    return float(len(record.pose.rotation_deg))


def _pose(figure: Callable[[PoseErrors, int], float], threshold: int, record: SequenceRecord) -> float:
    return 100 * figure(record.pose, threshold)


def _depth(name: str, record: SequenceRecord) -> float | None:
    return None if record.depth is None else float(getattr(record.depth, name))


def _points(source: str, name: str, record: SequenceRecord) -> float | None:
    value = getattr(record.points.get(source), name, None)
    return None if value is None else float(value)


def _pose_metrics() -> list[Metric]:
    kinds: tuple[tuple[str, Callable[[PoseErrors, int], float]], ...] = (
        ("AUC", lambda pose, t: auc(pose.worst_deg, t)),
        ("RRA", lambda pose, t: accuracy(pose.rotation_deg, t)),
        ("RTA", lambda pose, t: accuracy(pose.translation_deg, t)),
    )
    return [
        Metric(f"{title.lower()}{t}", f"{title}@{t}", *HUNDRED, value=partial(_pose, figure, t), weight=_pairs)
        for title, figure in kinds
        for t in THRESHOLDS
    ]


def _point_metrics(source: str, words: str) -> list[Metric]:
    return [
        Metric(
            f"{source}_{title.lower()}{suffix}",
            f"{title}{which} ({words})",
            *kind,
            value=partial(_points, source, title.lower() + suffix),
        )
        for suffix, which in (("", ""), ("_median", " median"))
        for title, kind in (("Acc", LENGTH), ("Comp", LENGTH), ("Overall", LENGTH), ("NC", COSINE))
        if (title, suffix) != ("Overall", "_median")
    ]


METRICS: tuple[Metric, ...] = (
    *_pose_metrics(),
    Metric("abs_rel", "depth abs-rel", "fraction", "lower", 4, value=partial(_depth, "abs_rel")),
    Metric("delta1", "depth d<1.25", "fraction 0-1", "higher", 4, value=partial(_depth, "delta1")),
    *_point_metrics("head", "point head"),
    *_point_metrics("unproj", "depth"),
)
BY_NAME = {metric.name: metric for metric in METRICS}
