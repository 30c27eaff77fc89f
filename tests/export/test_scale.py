"""VGGT-1B with random weights, whole: file size, memory, parity at a small frame size, and the TensorRT-RTX plan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_scale.py"
GB = 1e9


@pytest.fixture(scope="module", params=["w8a8", "w4a4", "w4a16"])
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of each step for one format, as `tools/bench_scale.py` writes them."""
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install '.[rtx]' in the clone")
    folder = tmp_path_factory.mktemp("scale")
    call = [sys.executable, TOOL, "--only", request.param, "--folder", folder, "-o", folder / "scale.json"]
    subprocess.run([str(part) for part in call], check=True)
    return {row["step"]: row for row in json.loads((folder / "scale.json").read_text())["rows"]}


@pytest.mark.slow
def test_everything_fits(rows: dict[str, Any]) -> None:
    assert not [row for row in rows.values() if "failed" in row]
    export, parity, build = rows["export"], rows["parity"], rows["build"]
    assert export["file_bytes"] <= (1.95 if export["form"] == "w8a8" else 0.85) * GB
    assert export["cpu_seconds"] <= 180
    assert export["peak_rss"] <= 8 * GB
    assert parity["passed"]
    assert build["passed"]
    assert build["peak_rss_children"] <= 10 * GB
    blocks = "288/288 linears INT8 GEMM" if export["form"] != "w4a16" else "INT4 weight-only"
    assert blocks in build["summary"]
