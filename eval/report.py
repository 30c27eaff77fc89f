"""The outcome of an evaluation as a text table and as a JSON document."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from qvggt.eval.harness import CandidateResult
from qvggt.files import atomic_write

FORMAT_VERSION = 1


def table(results: list[CandidateResult]) -> str:
    """One line a candidate; AUC and accuracies in points (0-100), deltas against the first line."""
    header = ["candidate", "AUC@30", "AUC@15", "AUC@5", "AUC@3", "d AUC@30", "abs-rel", "d<1.25", "s/seq", "MB"]
    rows = [header]
    first = results[0].summary()
    for result in results:
        s = result.summary()
        delta = s["auc30"] - first["auc30"] if result is not results[0] else None  # type: ignore[operator]
        size = result.facts.get("bytes")
        rows.append(
            [
                result.label,
                *(f"{s[f'auc{t}']:.2f}" for t in (30, 15, 5, 3)),
                "-" if delta is None else f"{delta:+.2f}",
                "-" if s["abs_rel"] is None else f"{s['abs_rel']:.4f}",
                "-" if s["delta1"] is None else f"{s['delta1']:.4f}",
                f"{s['seconds']:.3f}",
                "-" if size is None else f"{size / 1e6:.2f}",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def document(results: list[CandidateResult], config: dict[str, Any], frames: dict[str, Any]) -> dict[str, Any]:
    """Everything the table shows and what it rests on.

    `config` is the call; `frames` the frame list with its hash. Infinite SQNR is written as null with "equal": true.
    """
    first = results[0].summary()
    candidates = []
    for result in results:
        summary = result.summary()
        candidates.append(
            {
                "label": result.label,
                "facts": result.facts,
                "figures": summary,
                "delta": {k: v - first[k] for k, v in summary.items() if v is not None and first[k] is not None},  # type: ignore[operator]
                "sqnr_db": median_sqnr(result),
                "per_sequence": [_plain(s.record()) for s in result.sequences],
            }
        )
    return {"format_version": FORMAT_VERSION, "config": config, "frames": frames, "candidates": candidates}


def median_sqnr(result: CandidateResult) -> dict[str, float | None] | None:
    """Median over sequences of each output's SQNR in dB; None for the first candidate, null where outputs are equal."""
    if result.sequences[0].sqnr_db is None:
        return None
    names = result.sequences[0].sqnr_db
    medians = {n: float(np.median([s.sqnr_db[n] for s in result.sequences if s.sqnr_db])) for n in names}
    return {name: value if math.isfinite(value) else None for name, value in medians.items()}


def write_document(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically; QvggtError when the place cannot be written."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON has no infinity: None instead."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
