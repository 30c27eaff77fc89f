"""Strict JSON, for people too: values made ready for it, their text, and the file that holds it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvggt.files import atomic_write

_FLAT_LIST = re.compile(r"\[\n\s*([^\[\]{}]*?)\n\s*\]")  # a line break inside JSON text is never part of a string
_BREAK = re.compile(r"\n\s*")


def jsonable(value: Any) -> Any:
    """Keys to text, tuples to lists, non-finite numbers to text: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if getattr(value, "ndim", None) == 0:  # a number of numpy, which is not imported for those who have none
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def json_line(value: Any) -> str:
    """On one line, with the line break after it."""
    return json.dumps(jsonable(value), allow_nan=False) + "\n"


def json_text(value: Any) -> str:
    """Indented; a list of numbers, of which there may be thousands, is on one line."""
    text = json.dumps(jsonable(value), indent=1, allow_nan=False)
    return _FLAT_LIST.sub(lambda match: f"[{_BREAK.sub(' ', match[1])}]", text) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """`json_text` as a file, atomically; QvggtError when the place refuses it."""
    with atomic_write(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")
