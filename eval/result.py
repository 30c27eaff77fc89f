"""What an evaluation yields: records per sequence, and the figures of a candidate made of them (see also `metrics`).

Pose figures pool all view pairs of a category and then average the categories with equal weight (spec evaluation.md
4.2). Depth figures average the sequences of a category, then the categories, likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qvggt.eval.depth import DepthErrors
from qvggt.eval.memory import Memory
from qvggt.eval.noise import Noise, pooled
from qvggt.eval.points import PointErrors
from qvggt.eval.pose import THRESHOLDS, PoseErrors, accuracy, pose_auc

ACCURACY_DEG = 5


@dataclass(frozen=True)
class SequenceRecord:
    """One candidate on one sequence.

    pose: errors of all view pairs. depth: None without ground truth or depth output. noise: output name -> against the
    first candidate (empty for itself). seconds: one forward pass, wall clock, transfers included (the median of
    `timings`). points: source of the points ("head", "unproj") -> errors. parity: index of an earlier candidate other
    than the first -> output name -> against it.
    """

    key: str
    category: str
    pose: PoseErrors
    depth: DepthErrors | None
    noise: dict[str, Noise]
    seconds: float
    points: Mapping[str, PointErrors] = field(default_factory=dict)
    timings: tuple[float, ...] = ()
    parity: Mapping[int, Mapping[str, Noise]] = field(default_factory=dict)

    def against(self, index: int) -> Mapping[str, Noise]:
        """Noise against candidate `index`, which comes before this one; empty when not compared."""
        return self.noise if index == 0 else self.parity.get(index, {})


@dataclass(frozen=True)
class CandidateResult:
    """A candidate's records and the figures of the whole set. `facts`: what its runner's `describe` says.

    memory: None when it was not measured.
    """

    label: str
    facts: dict[str, Any]
    records: tuple[SequenceRecord, ...]
    thresholds: tuple[int, ...] = field(default=THRESHOLDS)
    memory: Memory | None = None

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(record.category for record in self.records))

    def of_category(self, category: str) -> tuple[SequenceRecord, ...]:
        return tuple(record for record in self.records if record.category == category)

    def category_auc(self, category: str) -> dict[int, float]:
        """Threshold in degrees -> AUC in [0, 1] of one category."""
        return pose_auc([record.pose for record in self.of_category(category)], self.thresholds)

    @property
    def auc(self) -> dict[int, float]:
        """Threshold in degrees -> AUC in [0, 1], mean over categories."""
        per_category = [self.category_auc(category) for category in self.categories]
        return {t: float(np.mean([values[t] for values in per_category])) for t in self.thresholds}

    @property
    def rra(self) -> float:
        """Fraction of pairs with a rotation error below 5 degrees, mean over categories."""
        return self._pairs(lambda pose: pose.rotation_deg)

    @property
    def rta(self) -> float:
        """Fraction of pairs with a translation direction error below 5 degrees, mean over categories."""
        return self._pairs(lambda pose: pose.translation_deg)

    @property
    def abs_rel(self) -> float | None:
        """Mean absolute relative depth error after median alignment per sequence; None without ground truth."""
        return self._depth(lambda depth: depth.abs_rel)

    @property
    def delta1(self) -> float | None:
        """Fraction of depth pixels within a factor of 1.25, in [0, 1]; None without ground truth."""
        return self._depth(lambda depth: depth.delta1)

    @property
    def sqnr_db(self) -> dict[str, float]:
        """Output name -> SQNR in dB against the first candidate, energies pooled over all sequences."""
        return {name: noise.sqnr_db for name, noise in self.noise_against(0).items()}

    def noise_against(self, index: int) -> dict[str, Noise]:
        """Output name -> noise against candidate `index`, pooled over all sequences."""
        parts = [record.against(index) for record in self.records]
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: pooled(part[name] for part in parts if name in part) for name in names}

    @property
    def seconds(self) -> float:
        """Median time of one sequence."""
        return float(np.median([record.seconds for record in self.records]))

    @property
    def timings(self) -> tuple[float, ...]:
        """Every timed pass, seconds."""
        return tuple(time for record in self.records for time in record.timings or (record.seconds,))

    @property
    def bytes(self) -> int:
        """Size of the files the candidate runs from; 0 when it has none."""
        return int(self.facts.get("bytes", 0))

    def _pairs(self, errors: Callable[[PoseErrors], Any]) -> float:
        return float(
            np.mean(
                [
                    accuracy(np.concatenate([errors(r.pose) for r in self.of_category(category)]), ACCURACY_DEG)
                    for category in self.categories
                ]
            )
        )

    def _depth(self, figure: Callable[[DepthErrors], float]) -> float | None:
        means = []
        for category in self.categories:
            values = [figure(r.depth) for r in self.of_category(category) if r.depth is not None]
            if values:
                means.append(float(np.mean(values)))
        return float(np.mean(means)) if means else None
