"""An evaluation as rows for spreadsheets and pandas, from its JSON document."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from qvggt.files import atomic_write

Of = Literal["candidates", "sequences"]
Row = dict[str, Any]


def table_rows(report: Mapping[str, Any], of: Of) -> list[Row]:
    """One row per candidate, or per candidate and sequence; `jobs.evaluation.Evaluation.rows` names the columns."""
    return [*(map(_candidate, report["candidates"]) if of == "candidates" else _sequences(report))]


def write_csv(path: str | Path, report: Mapping[str, Any], of: Of) -> None:
    """Write the rows atomically; a cell is empty where nothing was measured, numbers that are not finite are nan, inf
    and -inf. QvggtError for a place that refuses."""
    text = _csv(table_rows(report, of))
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def _csv(rows: Sequence[Row]) -> str:
    buffer = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _candidate(entry: Mapping[str, Any]) -> Row:
    row = {"candidate": entry["label"], "kind": entry.get("kind"), "scheme": entry.get("scheme")}
    for name, figure in entry["summary"].items():
        for suffix, value, interval in (("", "value", "interval"), ("_delta", "delta", "delta_interval")):
            low, high = figure[interval] or (None, None)
            row |= {f"{name}{suffix}": figure[value], f"{name}{suffix}_low": low, f"{name}{suffix}_high": high}
    memory = entry["memory"]
    return {
        **row,
        **_sqnr(entry),
        "seconds": entry["seconds"],
        "seconds_p99": entry["latency"]["p99"],
        "megabytes": entry["bytes"] / 1e6 or None,
        "peak_megabytes": None if memory is None else memory["peak_rss"] / 1e6,
    }


def _sequences(report: Mapping[str, Any]) -> Iterator[Row]:
    categories = {entry["key"]: entry["category"] for entry in report["sequences"]}
    for candidate in report["candidates"]:
        for entry in candidate["sequences"]:
            yield {
                "candidate": candidate["label"],
                "sequence": entry["sequence"],
                "category": categories.get(entry["sequence"]),
                **entry["metrics"],
                **_sqnr(entry),
                "seconds": entry["seconds"],
            }


def _sqnr(entry: Mapping[str, Any]) -> dict[str, float]:
    return {f"{name}_sqnr_db": value for name, value in entry["sqnr_db"].items()}
