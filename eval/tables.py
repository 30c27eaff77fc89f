"""An evaluation as text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qvggt.eval.bootstrap import Bootstrap
from qvggt.eval.metrics import BY_NAME, METRICS, column
from qvggt.eval.result import CandidateResult, file_bytes
from qvggt.numbers import number
from qvggt.predictions import OUTPUTS

KINDS = {"acc": "Acc", "comp": "Comp", "nc": "NC"}
POINTS = {name + end: title + word for end, word in (("", ""), ("_median", " med")) for name, title in KINDS.items()}
POINTS["overall"] = "Overall"
INTERVALS = ("auc30", "auc15", "auc5", "auc3", "abs_rel", "head_acc", "unproj_acc")


def format_tables(results: Sequence[CandidateResult]) -> str:
    """Accuracy with deltas against the first candidate, points, intervals of the deltas, categories, then closeness of
    the outputs, time, memory and size. Parts without content are left out."""
    parts = [
        accuracy(results),
        *(
            _points(results, source, words)
            for source, words in (("head", "points of the point head"), ("unproj", "points of the depth"))
        ),
        _intervals(results),
        _categories(results),
        _others(results),
    ]
    notes = (
        "AUC, RRA, RTA in points (0-100), delta against the first row; depth median-aligned; "
        "under the names of outputs: SQNR in dB against the first row"
    )
    return "\n\n".join(["\n".join(part) for part in parts if part] + [notes])


def accuracy(results: Sequence[CandidateResult]) -> list[str]:
    """Lines with the AUCs and depth figures of every candidate, deltas against the first."""
    base = results[0].auc()
    rows = [["candidate", *(c for t in base for c in (f"AUC@{t}", "delta")), "abs-rel", "d<1.25"]]
    for result in results:
        row = [result.label]
        for t, value in result.auc().items():
            row += [number(value, 2), "" if result is results[0] else number(value - base[t], 2, sign=True)]
        rows.append([*row, *(number(result.figure(name), 4) for name in ("abs_rel", "delta1"))])
    return aligned(rows)


def _points(results: Sequence[CandidateResult], source: str, words: str) -> list[str]:
    rows = [[words, *POINTS.values()]]
    rows += [[r.label, *(number(r.figure(f"{source}_{name}"), 4) for name in POINTS)] for r in results]
    return _unless_empty(rows)


def _intervals(results: Sequence[CandidateResult]) -> list[str]:
    """95 % intervals of the deltas; left out for one candidate or one sequence."""
    metrics = [metric for metric in METRICS if metric.name in INTERVALS]
    bootstrap = Bootstrap()
    rows = [["95 % interval of the change", *(metric.title for metric in metrics)]]
    for result in results[1:]:
        row = [result.label]
        for metric in metrics:
            interval = bootstrap.paired(*(column(metric, one.records) for one in (results[0], result)))
            ends = [number(end, metric.digits, sign=True) for end in interval or ()]
            row.append("..".join(ends) or "-")
        rows.append(row)
    return _unless_empty(rows)


def _categories(results: Sequence[CandidateResult]) -> list[str]:
    """AUC@30 per category, when there is more than one."""
    categories = results[0].categories
    if len(categories) < 2:
        return []
    rows = [["AUC@30 by category", "sequences", *(f"({index})" for index in range(1, len(results) + 1))]]
    for name, category, records in (
        *((name, name, results[0].of_category(name)) for name in categories),
        ("mean", None, results[0].records),
    ):
        rows.append([name, str(len(records)), *(number(result.figure("auc30", category), 2) for result in results)])
    return aligned(rows)


def by_sequence(results: Sequence[CandidateResult]) -> list[str]:
    """Lines with AUC@30 and the time of every sequence, candidates numbered in order."""
    numbers = range(1, len(results) + 1)
    rows = [["AUC@30 by sequence", *(f"({i})" for i in numbers), *(f"s ({i})" for i in numbers)]]
    for records in zip(*(result.records for result in results), strict=True):
        auc = [BY_NAME["auc30"].value(record) for record in records]
        seconds = [number(record.seconds, 3) for record in records]
        rows.append([records[0].key, *(number(value, 2) for value in auc), *seconds])
    return aligned(rows)


def _others(results: Sequence[CandidateResult]) -> list[str]:
    rows = [["candidate", "RRA@5", "RTA@5", *OUTPUTS, "s/seq", "p99 s", "peak MB", "file MB"]]
    for result in results:
        noise: dict[str, Any] = result.sqnr_db
        rows.append(
            [
                result.label,
                *(number(result.figure(name), 2) for name in ("rra5", "rta5")),
                *(number(noise.get(name), 1) for name in OUTPUTS),
                number(result.seconds, 3),
                number(float(np.quantile(result.timings, 0.99)), 3),
                number(None if result.memory is None else result.memory.peak_rss / 1e6, 0),
                number(None if (size := file_bytes(result.facts)) is None else size / 1e6, 2),
            ]
        )
    return aligned(rows)


def _unless_empty(rows: Sequence[Sequence[str]]) -> list[str]:
    return aligned(rows) if any(cell != "-" for row in rows[1:] for cell in row[1:]) else []


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """First column left, others right; columns that say nothing ("-" everywhere) are dropped."""
    columns = [c for c in zip(*rows, strict=True) if any(cell not in ("", "-") for cell in c[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines
