"""An evaluation as text tables and as one JSON document."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qvggt.engines.runner import OUTPUTS
from qvggt.eval.result import CandidateResult, SequenceRecord
from qvggt.files import atomic_write

FORMAT = 1
_FLAT_LIST = re.compile(r"\[\n\s*([^\[\]{}]*?)\n\s*\]")  # a line break inside JSON text is never part of a string
_BREAK = re.compile(r"\n\s*")
UNITS = {
    "auc": "points, 0-100; pairs pooled per category, unweighted mean over categories",
    "rra5, rta5": "points, 0-100; pairs with a rotation / translation direction error below 5 degrees",
    "abs_rel, delta1": "fractions; depth aligned by the ratio of medians per sequence",
    "delta": "candidate minus the first candidate, same units",
    "sqnr_db": "against the first candidate's outputs, energies pooled over sequences",
    "seconds": "one forward pass per sequence, wall clock; the candidate's figure is the median",
    "rotation_deg, translation_deg": "per view pair, in the order (0, 1), (0, 2), ..., (1, 2), ...",
    "non-finite numbers": "the strings nan, inf, -inf",
}


def make_report(
    results: Sequence[CandidateResult],
    config: Mapping[str, Any],
    frame_list: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The JSON document. config: what was asked; frame_list: at least its "sha256"; versions: tool -> version."""
    base = _figures(results[0])
    return {
        "format": FORMAT,
        "config": dict(config),
        "frame_list": dict(frame_list),
        "versions": dict(versions),
        "units": UNITS,
        "baseline": results[0].label,
        "candidates": [_candidate(result, base) for result in results],
    }


def write_report(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write strict JSON atomically; QvggtError when the place refuses it."""
    with atomic_write(path) as temporary:
        text = json.dumps(_jsonable(report), indent=1, allow_nan=False)
        text = _FLAT_LIST.sub(lambda found: f"[{_BREAK.sub(' ', found[1])}]", text)  # thousands of numbers: one line
        temporary.write_text(text + "\n", encoding="utf-8")


def format_tables(results: Sequence[CandidateResult]) -> str:
    """Accuracy with deltas against the first candidate, then closeness of the outputs, time and size."""
    base = _figures(results[0])
    thresholds = results[0].thresholds
    accuracy = [["candidate", *(c for t in thresholds for c in (f"AUC@{t}", "delta")), "abs-rel", "d<1.25"]]
    others = [["candidate", "RRA@5", "RTA@5", *OUTPUTS, "s/seq", "MB"]]
    for index, result in enumerate(results):
        own = _figures(result)
        row = [result.label]
        for t in thresholds:
            row += [f"{own['auc'][t]:.2f}", "" if index == 0 else f"{own['auc'][t] - base['auc'][t]:+.2f}"]
        accuracy.append([*row, _number(own["abs_rel"], 4), _number(own["delta1"], 4)])
        noise = [_number(own["sqnr_db"].get(name), 1) for name in OUTPUTS]
        size = f"{result.bytes / 1e6:.2f}" if result.bytes else "-"
        others.append([result.label, f"{own['rra5']:.2f}", f"{own['rta5']:.2f}", *noise, f"{result.seconds:.3f}", size])
    notes = (
        "AUC, RRA, RTA in points (0-100), delta against the first row; depth median-aligned; "
        "under the names of outputs: SQNR in dB against the first row"
    )
    return "\n".join([*_aligned(accuracy), "", *_aligned(others), "", notes])


def _figures(result: CandidateResult) -> dict[str, Any]:
    """All figures of a candidate in the units of the report."""
    return {
        "auc": {t: 100 * value for t, value in result.auc.items()},
        "rra5": 100 * result.rra,
        "rta5": 100 * result.rta,
        "abs_rel": result.abs_rel,
        "delta1": result.delta1,
        "sqnr_db": result.sqnr_db,
        "seconds": result.seconds,
    }


def _candidate(result: CandidateResult, base: Mapping[str, Any]) -> dict[str, Any]:
    own = _figures(result)
    delta: dict[str, Any] = {"auc": {t: own["auc"][t] - base["auc"][t] for t in own["auc"]}}
    for key in ("rra5", "rta5", "abs_rel", "delta1"):
        delta[key] = None if own[key] is None or base[key] is None else own[key] - base[key]
    categories = {
        category: {
            "sequences": len(result.of_category(category)),
            "auc": {t: 100 * value for t, value in result.category_auc(category).items()},
        }
        for category in result.categories
    }
    return {
        **result.facts,
        "label": result.label,
        "bytes": result.bytes,
        **own,
        "delta": delta,
        "categories": categories,
        "sequences": [_record(record) for record in result.records],
    }


def _record(record: SequenceRecord) -> dict[str, Any]:
    return {
        "sequence": record.key,
        "rotation_deg": [round(float(x), 6) for x in record.pose.rotation_deg],
        "translation_deg": [round(float(x), 6) for x in record.pose.translation_deg],
        "depth": None if record.depth is None else vars(record.depth),
        "sqnr_db": {name: noise.sqnr_db for name, noise in record.noise.items()},
        "seconds": record.seconds,
    }


def _jsonable(value: Any) -> Any:
    """Keys to text, tuples to lists, non-finite numbers to text: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """First column left, others right; columns that say nothing ("-" everywhere) are dropped."""
    columns = [c for c in zip(*rows, strict=True) if any(cell not in ("", "-") for cell in c[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines
