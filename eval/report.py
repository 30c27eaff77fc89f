"""An evaluation as one JSON document (docs/evaluation.md has its schema)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qvggt.eval.bootstrap import Bootstrap
from qvggt.eval.layers import layer_table
from qvggt.eval.metrics import METRICS, column
from qvggt.eval.reference import own_references
from qvggt.eval.result import CandidateResult, SequenceRecord
from qvggt.eval.tables import format_tables

__all__ = ["FORMAT", "format_tables", "make_report"]

FORMAT = 2
FIGURES = ("rra5", "rta5", "abs_rel", "delta1")  # of format 1, beside the AUC
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


def make_report(results: Sequence[CandidateResult], header: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON document. header: of the records (docs/evaluation.md), at least its config, frame_list and versions;
    sequences: facts that all candidates share; worst: what `worst.store_worst` returned."""
    bootstrap = Bootstrap()
    references = own_references([{**result.facts, "label": result.label} for result in results])
    return {
        "format": FORMAT,
        "config": dict(header["config"]),
        "config_sha256": header.get("config_sha256"),
        "frame_list": dict(header["frame_list"]),
        "notes": list(header.get("notes", ())),
        "versions": dict(header["versions"]),
        "units": UNITS,
        "metrics": [metric.describe() for metric in METRICS],
        "baseline": results[0].label,
        "sequences": [dict(entry) for entry in header.get("sequences", ())],
        "candidates": [
            {**_candidate(result, results[0], bootstrap, header["config"]), "reference": reference}
            for result, reference in zip(results, references, strict=True)
        ],
        "parity": parity(results),
        "worst": [dict(entry) for entry in header.get("worst", ())],
    }


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


def summary(result: CandidateResult, baseline: CandidateResult, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Metric -> value, interval, delta, delta_interval; the baseline itself has no deltas."""
    figures = {}
    for metric in METRICS:
        own, base = column(metric, result.records), column(metric, baseline.records)
        if own is not None:
            change = None if result is baseline or base is None or len(base.values) != len(own.values) else base
            figures[metric.name] = {
                "value": own.figure(),
                "interval": bootstrap.interval(own),
                "delta": None if change is None else own.figure() - change.figure(),
                "delta_interval": bootstrap.paired(change, own),
            }
    return figures


def _candidate(
    result: CandidateResult, baseline: CandidateResult, bootstrap: Bootstrap, config: Mapping[str, Any]
) -> dict[str, Any]:
    own, base = ({name: one.figure(name) for name in FIGURES} for one in (result, baseline))
    auc, base_auc = result.auc(), baseline.auc()
    return {
        **result.facts,
        "label": result.label,
        "bytes": result.bytes,
        "auc": auc,
        **own,
        "sqnr_db": result.sqnr_db,
        "seconds": result.seconds,
        "delta": {
            "auc": {t: auc[t] - base_auc[t] for t in auc},
            **{name: None if value is None or (b := base[name]) is None else value - b for name, value in own.items()},
        },
        "summary": summary(result, baseline, bootstrap),
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
        "auc": result.auc(category),
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
