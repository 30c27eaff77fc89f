"""What an evaluation yields: records per sequence, and the figures of a candidate made of them (see `metrics`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qvggt.eval.depth import DepthErrors
from qvggt.eval.memory import Memory
from qvggt.eval.metrics import figure
from qvggt.eval.noise import Noise, pooled
from qvggt.eval.points import PointErrors
from qvggt.eval.pose import THRESHOLDS, PoseErrors


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
    memory: Memory | None = None

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(record.category for record in self.records))

    def of_category(self, category: str) -> tuple[SequenceRecord, ...]:
        return tuple(record for record in self.records if record.category == category)

    def figure(self, name: str, category: str | None = None) -> float | None:
        """A metric of `metrics.METRICS`, in its unit: over all records, or of one category; None without data."""
        return figure(name, self.records if category is None else self.of_category(category))

    def auc(self, category: str | None = None) -> dict[int, float]:
        """Threshold in degrees -> AUC in points, 0-100."""
        return {threshold: self.figure(f"auc{threshold}", category) or 0.0 for threshold in THRESHOLDS}

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


def file_bytes(facts: Mapping[str, Any]) -> int | None:
    """Size of the files a runtime opens, from what a candidate says of itself.

    None for what PyTorch runs: a checkpoint is stored in another precision than it is computed in, and its size
    beside that of an ONNX file compares nothing."""
    return None if facts["kind"].startswith("pytorch") else facts.get("bytes") or None
