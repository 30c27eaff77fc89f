"""An evaluation as one JSON document (docs/evaluation.md has its schema)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qvggt.eval.bootstrap import Bootstrap
from qvggt.eval.layers import layer_table
from qvggt.eval.metrics import METRICS, Column, column
from qvggt.eval.records import jsonable
from qvggt.eval.result import CandidateResult, SequenceRecord
from qvggt.eval.tables import format_tables
from qvggt.files import atomic_write

__all__ = ["FORMAT", "format_tables", "make_report", "write_report"]

FORMAT = 2
_FLAT_LIST = re.compile(r"\[\n\s*([^\[\]{}]*?)\n\s*\]")  # a line break inside JSON text is never part of a string
_BREAK = re.compile(r"\n\s*")
UNITS = {
    "auc": "points, 0-100; pairs pooled per category, unweighted mean over categories",
    "rra, rta": "points, 0-100; pairs with a rotation / translation direction error below T degrees, pooled as auc",
    "abs_rel, delta1": "fractions; depth aligned by the ratio of medians per sequence; mean over categories",
    "head_*, unproj_*": "unit of the ground truth (acc, comp), 0-1 (nc); point head, depth; mean over sequences",
    "delta": "candidate minus the first candidate, same units",
    "interval": "95 %, bootstrap over sequences, 4000 draws, seed 0; of deltas paired",
    "sqnr_db": "against the first candidate's outputs, energies pooled over sequences",
    "parity": "per pair of candidates; max_error, p99, peak: largest of any sequence (p99: bounds the pooled one)",
    "seconds": "one forward pass per sequence, wall clock; the candidate's figure is the median",
    "memory": "bytes, in a process that opens the candidate alone",
    "rotation_deg, translation_deg": "per view pair, in the order (0, 1), (0, 2), ..., (1, 2), ...",
    "non-finite numbers": "the strings nan, inf, -inf",
}


def make_report(
    results: Sequence[CandidateResult],
    config: Mapping[str, Any],
    frame_list: Mapping[str, Any],
    versions: Mapping[str, str],
    *,
    sequences: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    config_sha256: str | None = None,
    worst: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The JSON document. config: what was asked; frame_list: at least its "sha256"; versions: tool -> version;
    sequences: facts that all candidates share; worst: what `worst.store_worst` returned."""
    base = _figures(results[0])
    bootstrap = Bootstrap()
    first = {metric.name: column(metric, results[0].records) for metric in METRICS}
    return {
        "format": FORMAT,
        "config": dict(config),
        "config_sha256": config_sha256,
        "frame_list": dict(frame_list),
        "notes": list(notes),
        "versions": dict(versions),
        "units": UNITS,
        "metrics": [metric.describe() for metric in METRICS],
        "baseline": results[0].label,
        "sequences": [dict(entry) for entry in sequences],
        "candidates": [
            _candidate(result, base, None if index == 0 else first, bootstrap, config)
            for index, result in enumerate(results)
        ],
        "parity": parity(results),
        "worst": [dict(entry) for entry in worst],
    }


def write_report(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write strict JSON atomically; QvggtError when the place refuses it."""
    with atomic_write(path) as temporary:
        text = json.dumps(jsonable(report), indent=1, allow_nan=False)
        text = _FLAT_LIST.sub(lambda match: f"[{_BREAK.sub(' ', match[1])}]", text)  # thousands of numbers: one line
        temporary.write_text(text + "\n", encoding="utf-8")


def parity(results: Sequence[CandidateResult]) -> list[dict[str, Any]]:
    """Every pair of candidates that was compared: labels, and per output SQNR, largest error, p99 and peak."""
    return [
        {
            "reference": results[first].label,
            "candidate": results[second].label,
            "outputs": {
                name: {"sqnr_db": n.sqnr_db, "max_error": n.max_error, "p99": n.p99, "peak": n.peak}
                for name, n in noise.items()
            },
        }
        for second in range(len(results))
        for first in range(second)
        if (noise := results[second].noise_against(first))
    ]


def summary(
    result: CandidateResult, first: Mapping[str, Column | None] | None, bootstrap: Bootstrap
) -> dict[str, dict[str, Any]]:
    """Metric -> value, interval, delta, delta_interval; `first`: columns of the baseline, None for itself."""
    figures = {}
    for metric in METRICS:
        own = column(metric, result.records)
        if own is None:
            continue
        entry: dict[str, Any] = {"value": own.figure(), "interval": bootstrap.interval(own)}
        base = None if first is None else first[metric.name]
        if base is None or len(base.values) != len(own.values):
            entry |= {"delta": None, "delta_interval": None}
        else:
            entry |= {"delta": own.figure() - base.figure(), "delta_interval": bootstrap.paired(base, own)}
        figures[metric.name] = entry
    return figures


def _figures(result: CandidateResult) -> dict[str, Any]:
    """The figures of format 1, in the units of the report."""
    return {
        "auc": {t: 100 * value for t, value in result.auc.items()},
        "rra5": 100 * result.rra,
        "rta5": 100 * result.rta,
        "abs_rel": result.abs_rel,
        "delta1": result.delta1,
        "sqnr_db": result.sqnr_db,
        "seconds": result.seconds,
    }


def _candidate(
    result: CandidateResult,
    base: Mapping[str, Any],
    first: Mapping[str, Column | None] | None,
    bootstrap: Bootstrap,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    own = _figures(result)
    delta: dict[str, Any] = {"auc": {t: own["auc"][t] - base["auc"][t] for t in own["auc"]}}
    for key in ("rra5", "rta5", "abs_rel", "delta1"):
        delta[key] = None if own[key] is None or base[key] is None else own[key] - base[key]
    return {
        **result.facts,
        "label": result.label,
        "bytes": result.bytes,
        **own,
        "delta": delta,
        "summary": summary(result, first, bootstrap),
        "latency": {
            "p50": float(np.quantile(result.timings, 0.5)),
            "p99": float(np.quantile(result.timings, 0.99)),
            "runs": len(result.timings),
            "warmup": config.get("warmup"),
            "repeats": config.get("repeats"),
        },
        "memory": None if result.memory is None else vars(result.memory),
        "layers": layer_table(result.facts.get("files", [])),
        "categories": {category: _category(result, category) for category in result.categories},
        "sequences": [_record(record) for record in result.records],
    }


def _category(result: CandidateResult, category: str) -> dict[str, Any]:
    records = result.of_category(category)
    return {
        "sequences": len(records),
        "auc": {t: 100 * value for t, value in result.category_auc(category).items()},
        "metrics": {m.name: own.figure() for m in METRICS if (own := column(m, records)) is not None},
    }


def _record(record: SequenceRecord) -> dict[str, Any]:
    return {
        "sequence": record.key,
        "metrics": {m.name: value for m in METRICS if (value := m.value(record)) is not None},
        "rotation_deg": [round(float(x), 6) for x in record.pose.rotation_deg],
        "translation_deg": [round(float(x), 6) for x in record.pose.translation_deg],
        "depth": None if record.depth is None else vars(record.depth),
        "points": {source: {**vars(e), "nc": e.nc, "nc_median": e.nc_median} for source, e in record.points.items()},
        "sqnr_db": {name: noise.sqnr_db for name, noise in record.noise.items()},
        "seconds": record.seconds,
        "timings": list(record.timings),
    }
