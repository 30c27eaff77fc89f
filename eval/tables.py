"""An evaluation as text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qvggt.eval.bootstrap import Bootstrap
from qvggt.eval.metrics import METRICS, column
from qvggt.eval.result import CandidateResult
from qvggt.predictions import OUTPUTS

POINTS = ("acc", "comp", "nc", "acc_median", "comp_median", "nc_median")
TITLES = ("Acc", "Comp", "NC", "Acc med", "Comp med", "NC med")
INTERVALS = ("auc30", "auc15", "auc5", "auc3", "abs_rel", "head_acc", "unproj_acc")


def format_tables(results: Sequence[CandidateResult]) -> str:
    """Accuracy with deltas against the first candidate, points, intervals of the deltas, categories, then closeness of
    the outputs, time, memory and size. Parts without content are left out."""
    parts = [
        _accuracy(results),
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


def _accuracy(results: Sequence[CandidateResult]) -> list[str]:
    thresholds = results[0].thresholds
    base = results[0].auc
    rows = [["candidate", *(c for t in thresholds for c in (f"AUC@{t}", "delta")), "abs-rel", "d<1.25"]]
    for index, result in enumerate(results):
        row, own = [result.label], result.auc
        for t in thresholds:
            row += [f"{100 * own[t]:.2f}", "" if index == 0 else f"{100 * (own[t] - base[t]):+.2f}"]
        rows.append([*row, _number(result.abs_rel, 4), _number(result.delta1, 4)])
    return aligned(rows)


def _points(results: Sequence[CandidateResult], source: str, words: str) -> list[str]:
    by_name = {metric.name: metric for metric in METRICS}
    rows = [[words, *TITLES]]
    for result in results:
        columns = [column(by_name[f"{source}_{name}"], result.records) for name in POINTS]
        rows.append([result.label, *("-" if c is None else f"{c.figure():.4f}" for c in columns)])
    return aligned(rows) if any(cell != "-" for row in rows[1:] for cell in row[1:]) else []


def _intervals(results: Sequence[CandidateResult]) -> list[str]:
    """95 % intervals of the deltas; left out for one candidate or one sequence."""
    metrics = [metric for metric in METRICS if metric.name in INTERVALS]
    base = {metric.name: column(metric, results[0].records) for metric in metrics}
    bootstrap = Bootstrap()
    rows = [["95 % interval of the change", *(metric.title for metric in metrics)]]
    for result in results[1:]:
        row = [result.label]
        for metric in metrics:
            first, own = base[metric.name], column(metric, result.records)
            same = first is not None and own is not None and len(first.values) == len(own.values)
            interval = bootstrap.paired(first, own) if same and first is not None and own is not None else None
            row.append("-" if interval is None else "{:+.{d}f}..{:+.{d}f}".format(*interval, d=metric.digits))
        rows.append(row)
    return aligned(rows) if any(cell != "-" for row in rows[1:] for cell in row[1:]) else []


def _categories(results: Sequence[CandidateResult]) -> list[str]:
    """AUC@30 per category, when there is more than one."""
    categories = results[0].categories
    if len(categories) < 2:
        return []
    rows = [["AUC@30 by category", "sequences", *(f"({index})" for index in range(1, len(results) + 1))]]
    for category in categories:
        auc = [100 * result.category_auc(category)[30] for result in results]
        rows.append([category, str(len(results[0].of_category(category))), *(f"{value:.2f}" for value in auc)])
    rows.append(["mean", str(len(results[0].records)), *(f"{100 * result.auc[30]:.2f}" for result in results)])
    return aligned(rows)


def _others(results: Sequence[CandidateResult]) -> list[str]:
    rows = [["candidate", "RRA@5", "RTA@5", *OUTPUTS, "s/seq", "p99 s", "peak MB", "MB"]]
    for result in results:
        noise: dict[str, Any] = result.sqnr_db
        rows.append(
            [
                result.label,
                f"{100 * result.rra:.2f}",
                f"{100 * result.rta:.2f}",
                *(_number(noise.get(name), 1) for name in OUTPUTS),
                f"{result.seconds:.3f}",
                f"{np.quantile(result.timings, 0.99):.3f}",
                "-" if result.memory is None else f"{result.memory.peak_rss / 1e6:.0f}",
                f"{result.bytes / 1e6:.2f}" if result.bytes else "-",
            ]
        )
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """First column left, others right; columns that say nothing ("-" everywhere) are dropped."""
    columns = [c for c in zip(*rows, strict=True) if any(cell not in ("", "-") for cell in c[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
