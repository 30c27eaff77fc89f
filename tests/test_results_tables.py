"""The numbers in README.md and the model card are those of the JSON files in docs/results."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_tables", ROOT / "tools" / "results_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_is_up_to_date(tables: ModuleType) -> None:
    for path in tables.FILES:
        text = path.read_text(encoding="utf-8")
        assert tables.MARKER.search(text), f"{path} holds no table"
        assert tables.filled(text) == text, f"{path} is out of date: run python tools/results_tables.py"


def test_a_changed_number_is_noticed(tables: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.filled(text.replace("<!-- end -->", "| 99.99 |\n<!-- end -->", 1)) == text


def test_the_shipped_model_meets_its_goal(tables: ModuleType) -> None:
    """Held-out scenes: AUC@30 >= 65 and depth abs-rel <= 0.15 at every frame count from 2 to 8, 256 scenes."""
    held_out = tables.load("tiny_metrics")["held_out"]
    assert [r["frames"] for r in held_out] == list(range(2, 9))
    assert all(r["scenes"] >= 256 and r["auc30"] >= 65 and r["abs_rel"] <= 0.15 for r in held_out)
