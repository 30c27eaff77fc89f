"""What the benchmarks share: how they start, the JSON and the tables they write."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from qvggt import sqnr
from qvggt.cli.terminal import run
from qvggt.files import atomic_write
from qvggt.numbers import filled, number

CELL = re.compile(r"([\w.]+)(?:/([\w.]+))?(?: (\S*\{\S*))?(?: or ?(.*))?")

Row = dict[str, Any]
Columns = dict[str, str | Callable[[Row], str]]  # heading -> text for `shown`, or a function of the row


def start(command: Callable[..., None]) -> None:
    """Run a function as a command line; a QvggtError ends with one line and exit code 2."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    run(app)


def write_json(path: Path, report: dict[str, Any], *, told: bool = True) -> None:
    """Atomically; `told`: say so."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if told:
        print(f"wrote {path}")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, aligned: bool = False) -> str:
    """A table; aligned: the columns after the first to the right."""
    rule = "| --- |" + " ---: |" * (len(header) - 1) if aligned else "|" + "---|" * len(header)
    first, *rest = ["| " + " | ".join(line) + " |" for line in (header, *rows)]
    return "\n".join((first, rule, *rest)) + "\n"


def columns(rows: Iterable[Row], spec: Columns, *, aligned: bool = True) -> str:
    """A table with one line a row."""
    lines = [[text(row) if callable(text) else shown(row, text) for text in spec.values()] for row in rows]
    return markdown(list(spec), lines, aligned=aligned)


def shown(row: Row, text: str) -> str:
    """`bytes/1e6 {:.1f} or -`: a key (`a.b`: b of the value of a), by what to divide, the format, and what stands for
    a figure that is not there; all but the key may be left out."""
    found = CELL.fullmatch(text)
    assert found is not None, text
    path, unit, form, none = found.groups()
    value: Any = row
    for key in path.split("."):
        value = value[key] if none is None else (value or {}).get(key)
    if value is None:
        return none or ""
    return filled(form or "{}", value if unit is None else value / float(unit))


def change_text(row: dict[str, Any], name: str = "auc30") -> str:
    """Change of a score against the float model with its 95 % interval."""
    low, high = row[f"{name}_interval"]
    change, low, high = (number(value, 2, sign=True) for value in (row[f"{name}_change"], low, high))
    return f"{change} [{low}, {high}]"


def spread_text(row: Row, name: str = "auc30") -> str:
    """A score's smallest and largest over calibration seeds; `-` of a single one."""
    return " to ".join(f"{value:.2f}" for value in row["spread"][name]) if "spread" in row else "-"


def sqnr_db(truth: Any, value: Any) -> float:
    """10 log10 of signal over error power in float64; finite for equal arrays, so that JSON can hold it."""
    return min(sqnr.sqnr_db(truth, value), 3000.0)
