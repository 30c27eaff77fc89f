"""Every tool says how it is used, and is type-checked."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import typecheck

TOOLS = Path(__file__).resolve().parents[2] / "tools"
COMMANDS = sorted(path.name for path in TOOLS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOLS / name), run_name="__main__")
    assert end.value.code == 0
    assert "--help" in capsys.readouterr().out


def test_every_file_is_type_checked() -> None:
    checked = typecheck.tool_modules()
    assert {path.stem for path in TOOLS.glob("*.py")} <= set(checked)
    assert {path.parent.name for path in TOOLS.glob("*/*.py")} <= set(checked)


def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=TOOLS.parent, capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"test", "lint", "docs", "stress", "demo"}
