"""JSON as this project writes it: strict, with words for numbers that JSON has none for."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def json_text(value: Any) -> str:
    import json

    return json.dumps(value, indent=1) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    from qvggt.eval.report import write_report

    write_report(path, value)
