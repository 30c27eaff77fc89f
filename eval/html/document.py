"""The part of an evaluation's JSON document (docs/evaluation.md, format 2) that the page shows, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvggt.errors import QvggtError
from qvggt.eval.html.node import Node
from qvggt.eval.records import jsonable
from qvggt.eval.report import FORMAT
from qvggt.files import reason


@dataclass(frozen=True)
class Metric:
    name: str
    title: str
    unit: str
    better: str
    digits: int


@dataclass(frozen=True)
class Figure:
    """Intervals are 95 %; deltas are against the first candidate (None for itself)."""

    value: float | None
    interval: tuple[float, float] | None
    delta: float | None
    delta_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Layers:
    source: str
    measure: str
    rows: tuple[tuple[str, float | None], ...]
    """(path, dB)"""


@dataclass(frozen=True)
class Candidate:
    """bytes, peak_rss, device_memory: bytes; p50, p99: seconds. None: not measured."""

    label: str
    kind: str | None
    scheme: str | None
    file: str | None
    sha256: str | None
    bytes: int | None
    p50: float | None
    p99: float | None
    runs: int | None
    peak_rss: int | None
    device_memory: int | None
    summary: Mapping[str, Figure]
    categories: Mapping[str, tuple[int | None, Mapping[str, float | None]]]
    """category -> (sequences, metric -> value)"""
    layers: Layers | None


@dataclass(frozen=True)
class Parity:
    reference: str
    candidate: str
    outputs: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Worst:
    """values: of `metric`, per candidate. file: the stored predictions, as the document names them."""

    sequence: str
    metric: str
    values: tuple[float | None, ...]
    file: str


@dataclass(frozen=True)
class Document:
    dataset: str
    sequences: int
    frame_list: str | None
    config: Mapping[str, Any]
    config_sha256: str | None
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    units: Mapping[str, str]
    metrics: tuple[Metric, ...]
    candidates: tuple[Candidate, ...]
    parity: tuple[Parity, ...]
    worst: tuple[Worst, ...]

    def measured(self) -> tuple[Metric, ...]:
        """Metrics that some candidate has a value of."""
        return tuple(m for m in self.metrics if any(m.name in c.summary for c in self.candidates))


def read_document(path: str | Path) -> Document:
    """Read a file of `qvggt-eval --json`. QvggtError when it is no such file."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); expected what qvggt-eval --json wrote") from error
    except (ValueError, RecursionError) as error:
        raise QvggtError(f"{path}: is no JSON ({error}); expected what qvggt-eval --json wrote") from error
    return parse_document(value, str(path))


def parse_document(value: Any, name: str) -> Document:
    """Of a document in memory (as `report.make_report` returns it); `name` stands in errors."""
    root = Node(jsonable(value), name)
    if not isinstance(root.value, dict):
        root.fail("an object")
    if root["format"].value != FORMAT:
        root["format"].fail(f"the format {FORMAT}")
    candidates = tuple(_candidate(node) for node in root["candidates"])
    if not candidates:
        root["candidates"].fail("at least one candidate")
    config = dict(root["config"].items())
    return Document(
        dataset=config["dataset"].text() if "dataset" in config else "unknown",
        sequences=root["frame_list"]["sequences"].count() or sum(1 for _ in root["sequences"]),
        frame_list=root["frame_list"]["sha256"].words(),
        config={key: node.value for key, node in config.items()},
        config_sha256=root["config_sha256"].words(),
        notes=tuple(node.text() for node in root["notes"]),
        versions={key: node.text() for key, node in root["versions"].items()},
        units={key: node.text() for key, node in root["units"].items()},
        metrics=tuple(_metric(node) for node in root["metrics"]),
        candidates=candidates,
        parity=tuple(_parity(node) for node in root["parity"]),
        worst=tuple(_worst(node, len(candidates)) for node in root["worst"]),
    )


def _metric(node: Node) -> Metric:
    better, digits = node["better"].text(), node["digits"].count()
    if better not in ("higher", "lower"):
        node["better"].fail('"higher" or "lower"')
    if digits is None or digits > 12:
        node["digits"].fail("a count of digits")
    return Metric(node["name"].text(), node["title"].text(), node["unit"].text(), better, digits)


def _candidate(node: Node) -> Candidate:
    latency, memory = node["latency"], node["memory"]
    return Candidate(
        label=node["label"].text(),
        kind=node["kind"].words(),
        scheme=node["scheme"].words(),
        file=node["file"].words(),
        sha256=node["sha256"].words(),
        bytes=node["bytes"].count(),
        p50=latency["p50"].number(),
        p99=latency["p99"].number(),
        runs=latency["runs"].count(),
        peak_rss=memory["peak_rss"].count(),
        device_memory=memory["device"].count(),
        summary={
            name: Figure(
                entry["value"].number(),
                entry["interval"].pair(),
                entry["delta"].number(),
                entry["delta_interval"].pair(),
            )
            for name, entry in node["summary"].items()
        },
        categories={
            name: (entry["sequences"].count(), {key: value.number() for key, value in entry["metrics"].items()})
            for name, entry in node["categories"].items()
        },
        layers=None if node["layers"].missing else _layers(node["layers"]),
    )


def _layers(node: Node) -> Layers:
    rows = tuple((row["path"].text(), row["sqnr_db"].number()) for row in node["rows"])
    return Layers(node["source"].text(), node["measure"].text(), rows)


def _parity(node: Node) -> Parity:
    outputs = {name: {key: value.number() for key, value in entry.items()} for name, entry in node["outputs"].items()}
    return Parity(node["reference"].text(), node["candidate"].text(), outputs)


def _worst(node: Node, candidates: int) -> Worst:
    values = tuple(value.number() for value in node["values"])
    if len(values) != candidates:
        node["values"].fail(f"{candidates} values, one per candidate")
    return Worst(node["sequence"].text(), node["metric"].text(), values, node["file"].text())
