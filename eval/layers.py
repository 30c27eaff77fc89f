"""Error of every layer of a candidate, from the files that lie beside it: quant.json, and an export's parity report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvggt.sqnr import decibels

MEASURES = {
    "weight_sqnr_db": "SQNR of the weights of a linear",
    "sqnr_db": "SQNR of the output of a layer",
    "final": "SQNR of the output of a block on its calibration inputs",
    "error": "largest error of a linear against the fake-quant reference, relative to its largest output, in dB",
}


def layer_table(files: Mapping[str, Any] | list[dict[str, Any]]) -> dict[str, Any] | None:
    """{"source", "measure", "rows": [{"path", "sqnr_db"}]} of a candidate's `files` (facts of its runner), or None.

    A calibrated checkpoint has the table in its quant.json, an ONNX file in NAME.parity.json beside it. A file that is
    missing or broken gives None: the table is an extra, and the runner has checked what it needs.
    """
    for entry in files:
        path = Path(entry["path"])  # type: ignore[index]
        if path.name == "quant.json":
            layers = _load(path).get("layers")
            rows = [{"path": key, **value} for key, value in layers.items()] if isinstance(layers, dict) else []
        elif path.suffix == ".onnx":
            path = path.with_name(path.name + ".parity.json")
            rows = _load(path).get("linears", [])
        else:
            continue
        if table := _table(path, rows):
            return table
    return None


def _table(path: Path, rows: Any) -> dict[str, Any] | None:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "path" in row for row in rows):
        return None
    for name, measure in MEASURES.items():
        layers = [
            {"path": str(row["path"]), "sqnr_db": _decibel(name, row[name])}
            for row in rows
            if isinstance(row.get(name), int | float)
        ]
        if layers:
            return {"source": str(path), "measure": measure, "rows": layers}
    return None


def _decibel(name: str, value: float) -> float:
    if name.endswith("_db"):
        return float(value)
    ratio = decibels(1.0, max(value, 0.0))
    return 2 * ratio if name == "error" else ratio  # of amplitudes; "final" is a ratio of energies


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
