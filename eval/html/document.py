"""The part of an evaluation's JSON document (docs/evaluation.md, format 2) that the page shows, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from qvggt.errors import QvggtError
from qvggt.eval.metrics import MetricWords
from qvggt.eval.report import FORMAT
from qvggt.files import reason
from qvggt.json_file import jsonable
from qvggt.mapping import Check, Count, from_mapping

FLOATS = ("fp32", "fp16", "bf16")
Interval = tuple[float, float]
Format = Annotated[int, Check(f"the format {FORMAT}", lambda value: value == FORMAT)]


@dataclass(frozen=True)
class Figure:
    """Intervals are 95 %; deltas are against the first candidate (None for itself)."""

    value: float | None = None
    interval: Interval | None = None
    delta: float | None = None
    delta_interval: Interval | None = None

    def verdict(self, metric: MetricWords) -> str:
        """ "better" or "worse" where the interval of the change leaves zero out, else "same"; also where the change is
        too small to be written."""
        interval = self.delta_interval
        if interval is None or not all(map(math.isfinite, interval)) or interval[0] <= 0 <= interval[1]:
            return "same"
        if self.delta is not None and round(self.delta, metric.digits) == 0:
            return "same"
        return "better" if (interval[0] > 0) == (metric.better == "higher") else "worse"


@dataclass(frozen=True)
class Category:
    sequences: Count | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    path: str
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Layers:
    source: str
    measure: str
    rows: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Latency:
    """p50, p99: seconds."""

    p50: float | None = None
    p99: float | None = None
    runs: Count | None = None


@dataclass(frozen=True)
class Reference:
    """What a candidate has to agree with: label of that candidate (None: not among them), name of its checkpoint, and
    the SQNR that its format has to reach."""

    label: str | None = None
    name: str | None = None
    floor_db: float | None = None


@dataclass(frozen=True)
class Candidate:
    """None: not measured. memory: "peak_rss" and "device", bytes."""

    label: str
    kind: str | None = None
    scheme: str | None = None
    file: str | None = None
    sha256: str | None = None
    bytes: Count | None = None
    latency: Latency | None = None
    memory: Mapping[str, Count | None] | None = None
    summary: Mapping[str, Figure] = field(default_factory=dict)
    categories: Mapping[str, Category] = field(default_factory=dict)
    layers: Layers | None = None
    reference: Reference | None = None

    @property
    def file_size(self) -> int | None:
        """Bytes of the files a runtime opens. None for what PyTorch runs: its checkpoint is stored in another precision
        than it is computed in, and compares with no ONNX file."""
        return None if (self.kind or "").startswith("pytorch") else self.bytes

    @property
    def is_float(self) -> bool:
        return self.scheme in FLOATS


@dataclass(frozen=True)
class Parity:
    """outputs: name -> "sqnr_db", "max_error", "p99"."""

    reference: str
    candidate: str
    outputs: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Worst:
    """values: of `metric`, per candidate. file: the stored predictions, as the document names them."""

    sequence: str
    metric: str
    values: tuple[float | None, ...]
    file: str


@dataclass(frozen=True)
class FrameList:
    sha256: str | None = None
    sequences: Count | None = None


@dataclass(frozen=True)
class Document:
    format: Format
    candidates: tuple[Candidate, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    config_sha256: str | None = None
    frame_list: FrameList = FrameList()
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[MetricWords, ...] = ()
    sequences: tuple[Any, ...] = ()
    parity: tuple[Parity, ...] = ()
    worst: tuple[Worst, ...] = ()

    def measured(self) -> list[MetricWords]:
        """Metrics that some candidate has a value of."""
        return [m for m in self.metrics if any(m.name in c.summary for c in self.candidates)]

    def category_names(self) -> list[str]:
        return list(dict.fromkeys(name for c in self.candidates for name in c.categories))

    def category_metrics(self) -> list[MetricWords]:
        """Metrics that some category of some candidate has a value of."""
        values = [category.metrics for c in self.candidates for category in c.categories.values()]
        return [m for m in self.metrics if any(m.name in metrics for metrics in values)]

    def own_parity(self, index: int) -> Parity | None:
        """Of a candidate against its own reference; None when that is not among the candidates or not known."""
        own = self.candidates[index]
        names = None if own.reference is None else {own.label, own.reference.label}
        return next((pair for pair in self.parity if {pair.reference, pair.candidate} == names), None)

    def other_parity(self) -> list[Parity]:
        """The pairs of which neither is the other's own reference."""
        own = [self.own_parity(index) for index in range(len(self.candidates))]
        return [pair for pair in self.parity if pair not in own]

    def compression(self, index: int) -> tuple[int, float] | None:
        """How many times smaller a candidate's files are than those of a float candidate, like with like: the first
        float one in files of the same kind (suffix), else the first. (its index, ratio); None for itself and without
        sizes."""
        own, suffix = self.candidates[index], _suffix(self.candidates[index])
        alike = [i for i, other in enumerate(self.candidates) if other.is_float and _suffix(other) == suffix]
        base = alike[0] if alike else 0
        size, mine = self.candidates[base].file_size, own.file_size
        return (base, size / mine) if base != index and size and mine else None

    def output_names(self) -> list[str]:
        """Of the outputs that some pair compares."""
        return list(dict.fromkeys(name for pair in self.parity for name in pair.outputs))


def _suffix(candidate: Candidate) -> str:
    return Path(candidate.file or "").suffix


def read_document(path: str | Path) -> Document:
    """Read a file of `qvggt eval --json`. QvggtError when it is no such file."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); expected what qvggt eval --json wrote") from error
    except (ValueError, RecursionError) as error:
        raise QvggtError(f"{path}: is no JSON ({error}); expected what qvggt eval --json wrote") from error
    return parse_document(value, str(path))


def parse_document(value: Any, name: str) -> Document:
    """Of a document in memory (as `report.make_report` returns it); `name` stands in errors."""
    advice = "give what qvggt eval --json wrote"
    document = from_mapping(Document, jsonable(value), name, advice=advice, ignore_unknown=True)
    count = len(document.candidates)
    if not count:
        raise QvggtError(f"{name}: candidates: expected at least one candidate, got none; {advice}")
    for index, worst in enumerate(document.worst):
        if len(worst.values) != count:
            place = f"{name}: worst[{index}].values"
            raise QvggtError(f"{place}: expected {count} values, one per candidate, got {len(worst.values)}; {advice}")
    return document
