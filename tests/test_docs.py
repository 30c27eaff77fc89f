"""Every `qvggt` line of the documents is a call: it parses, and its job is one that can be (nothing is run here)."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from calling import call

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def lines_of(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (shlex.join(shlex.split(line, comments=True)) for line in lines) if line]


CALLS = [(page.name, line) for page in PAGES for line in lines_of(page) if line.startswith("qvggt")]


def test_there_are_calls_of_the_one_command_alone() -> None:
    assert len(CALLS) > 30
    assert {line.split()[0] for _, line in CALLS} == {"qvggt"}


@pytest.mark.parametrize(("page", "line"), CALLS)
def test_it_is_a_call(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[Any] = []
    monkeypatch.setattr("qvggt.cli.commands.run_job", lambda job, *_: found.append(job))
    code = call(*shlex.split(line)[1:])
    assert code == 0, capsys.readouterr().err
    assert found or "--version" in line or line.endswith("--install-completion")
