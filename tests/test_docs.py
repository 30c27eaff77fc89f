"""Every call in README.md and docs/ parses, is run or has its reason, and no two write different things to one path."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from calling import call
from pages import BLOCKS, CALLS, NOT_RUN, PAGES, PYTHON_NOT_RUN, ROOT, matches, reason, written, written_by_python

LINES = [(block.page, line) for block in BLOCKS if block.language == "bash" for line in block.lines()]
CODE = ("qvggt", "export", "engines", "calib", "eval", "tests", "tools")


def test_there_are_calls_of_the_one_command_alone() -> None:
    assert len(CALLS) > 30
    assert {line.split()[0] for _, line in CALLS} == {"qvggt"}


def test_every_line_is_run_or_has_a_reason() -> None:
    assert [pair for pair in LINES if not pair[1].startswith("qvggt ") and reason(pair[1]) is None] == []
    for key in NOT_RUN:
        assert any(matches(key, line) for _, line in LINES), f"{key}: is in no page any more"
    for key in PYTHON_NOT_RUN:
        assert any(key in block.text for block in BLOCKS if block.language == "python"), (
            f"{key}: is in no page any more"
        )
    assert {block.language for block in BLOCKS} <= {"bash", "python"}, "nothing runs a block of this kind"


@pytest.mark.parametrize(("page", "line"), CALLS)
def test_it_is_a_call(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[Any] = []
    monkeypatch.setattr("qvggt.cli.commands.run_job", lambda job, *_: found.append(job))
    code = call(*shlex.split(line)[1:])
    assert code == 0, capsys.readouterr().err
    assert found or "--version" in line or line.endswith("--install-completion")


def test_a_path_is_always_written_by_the_same_call() -> None:
    writers: dict[str, set[str]] = {}
    for _, line in CALLS:
        for path in written(line):
            writers.setdefault(path.rstrip("/"), set()).add(line)
    for block in BLOCKS:
        for path in written_by_python(block.text) if block.language == "python" else ():
            writers.setdefault(path, set()).add(f"Python in {block.page}: {path}")
    assert {path: calls for path, calls in writers.items() if len(calls) > 1} == {}


def test_extras_are_installed_from_the_clone() -> None:
    """qvggt is not on PyPI: what a page or a message tells to install by that name would fail, or be another's."""
    files = [*PAGES, *(path for room in CODE for path in (ROOT / room).rglob("*.py") if path != Path(__file__))]
    told = {path: path.read_text(encoding="utf-8") for path in (*files, *(ROOT / "qvggt").rglob("*.jinja"))}
    assert [path for path, text in told.items() if re.search(r"pip install [^\n]{0,20}['\"]?qvggt\b", text)] == []
    extras = {extra for text in told.values() for extra in re.findall(r"pip install '\.\[(\w+)\]'", text)}
    there = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M))
    assert extras <= there
    assert {"rtx", "reconstruct"} <= extras


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 105


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs mkdocs-material: the extra dev")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'src="picture.png"' in start
    assert (tmp_path / "site" / "picture.png").is_file()
    assert (tmp_path / "site" / "reference" / "qvggt" / "export" / "graph.html").is_file()
    assert (tmp_path / "site" / "search" / "search_index.js").is_file(), "the search works from disk"
    assert not re.search(r"""<(?:script|link)[^>]+(?:src|rel="stylesheet" href)="https?:""", start), "needs no network"
