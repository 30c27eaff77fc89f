"""The short form of tools/stress.py, and the parts that decide what is right."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGSEGV
from typing import Any
from unittest.mock import patch

import pytest
import sandbox
import stress
import typer
from hostile_places import limit_files
from sandbox import Outcome, judge, run_forked
from typer.testing import CliRunner


def ended(code: int = 2, err: str = "error: x: expected y\n") -> Outcome:
    return Outcome(code, "", err, 0.1)


@pytest.mark.parametrize(
    ("outcome", "left", "verdict", "why"),
    [
        (ended(), set(), "refused", ""),
        (ended(err="note: z\nerror: x\n"), set(), "refused", ""),
        (ended(), {".c.unfinished", ".c.unfinished/journal.jsonl"}, "refused", ""),
        (ended(0, ""), {"m.onnx"}, "harmless", ""),
        (ended(), {".m.onnx.tmp-1"}, "fault", "left behind"),
        (ended(err="error: a\nb\n"), set(), "fault", "2 lines"),
        (ended(err=""), set(), "fault", "0 lines"),
        (ended(1, "parity FAILED\n"), set(), "fault", "exit code 1"),
        (ended(1, "Traceback (most recent call last):\nKeyError: 1\n"), set(), "fault", "KeyError"),
        (ended(-SIGSEGV, ""), set(), "fault", "SIGSEGV"),
        (ended(err="error: " + "x" * 5000), set(), "fault", "characters"),
        (Outcome(-SIGKILL, "", "", 400.0, timed_out=True), set(), "fault", "no end after 400 s"),
    ],
)
def test_what_is_a_right_ending(outcome: Outcome, left: set[str], verdict: str, why: str) -> None:
    found = judge(outcome, left)
    assert found.verdict == verdict
    assert why in found.why


def test_a_failed_check_is_right_only_where_there_is_one() -> None:
    assert judge(ended(1, "parity FAILED\n"), set(), check=True).verdict == "check failed"


def crash() -> None:
    os.kill(os.getpid(), SIGSEGV)


def fill(path: Path) -> None:
    path.write_bytes(bytes(10_000))


def test_the_sandbox_reports_codes_output_crashes_and_kills(clean: Callable[..., Any], tmp_path: Path) -> None:
    def run(work: Callable[[], object], **how: Any) -> Outcome:
        return clean(run_forked, work, **how)

    assert run(partial(sys.exit, 3)).code == 3
    assert run(partial(print, "hello")).out == "hello\n"
    assert "ZeroDivisionError" in run(partial(divmod, 1, 0)).err
    assert run(crash).code == -SIGSEGV
    assert run(partial(time.sleep, 60), kill_after=0.05).code == -SIGKILL
    assert run(partial(time.sleep, 60), timeout=0.05).timed_out
    full = run(partial(fill, tmp_path / "big"), before=partial(limit_files, 4096))
    assert "File too large" in full.err


@pytest.fixture(scope="module")
def figures(clean: Callable[..., Any], shop: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tasks = stress.plan(shop, tmp_path_factory.mktemp("short"), short=True, seed=0)
    return stress.gathered({name: clean(task) for name, task in tasks.items()})


def test_short_form(figures: dict[str, Any]) -> None:
    assert not stress.fault_lines(figures)
    assert figures["kills"]["kills"] >= 3
    assert figures["kills"]["same_result"] == figures["kills"]["rounds"]
    assert figures["full_disk"]["refused"] >= 3
    assert figures["unwritable"]["refused"] == 3
    assert "kills: 3 (SIGKILL)" in stress.table(figures)


def killed(work: Callable[[str], None], folder: Path, kills: int) -> dict[str, Any]:
    """In the clean process: kills of a job that is this work instead of a command."""
    with patch.object(sandbox, "command", lambda _name, line: partial(work, line[0])):
        return stress.kill_job(sandbox.Job("work", "m.onnx", ("{out}",)), folder, kills, 0)


def write_half(out: str) -> None:
    """A command that writes under the final name, slowly."""
    path = Path(out) / "m.onnx"
    for _ in range(20):
        with path.open("ab") as file:
            file.write(bytes(10))
        time.sleep(0.01)


def test_a_command_that_is_not_atomic_is_a_fault(clean: Callable[..., Any], tmp_path: Path) -> None:
    found = clean(killed, write_half, tmp_path, 3)
    assert any("is there after a kill, but not whole" in fault for fault in found["faults"])


def write_and_litter(out: str) -> None:
    """A command that leaves what it wrote before a kill."""
    Path(out, f".left-{os.getpid()}").touch()
    time.sleep(0.05)
    Path(out, "m.onnx").write_bytes(b"whole")


def test_left_overs_are_a_fault(clean: Callable[..., Any], tmp_path: Path) -> None:
    found = clean(killed, write_and_litter, tmp_path, 1)
    assert found["litter"] == len(found["faults"]) > 0
    assert "stays after" in found["faults"][0]


def test_a_fault_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks that found something, in threads instead of processes."""
    job = {"job": "export", "kills": 1, "rounds": 1, "resumed": 0, "litter": 1, "seconds": 1.0, "faults": ["bad"]}
    place = {"job": "export", "place": "here", "verdict": "fault", "why": "left behind: x", "said": ""}
    monkeypatch.setattr(stress, "import_everything", lambda: None)
    monkeypatch.setattr(stress, "make_workshop", lambda *_, **__: tmp_path)
    monkeypatch.setattr(stress, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    monkeypatch.setattr(stress, "plan", lambda *_: {"kills export": lambda: job, "full_disk": lambda: [place]})
    app = typer.Typer()
    app.command()(stress.stress)
    done = CliRunner().invoke(app, ["-o", str(tmp_path / "s.json")])
    assert done.exit_code == 1
    assert "FAULT export: bad\nFAULT export here: left behind: x" in done.output
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["faults"] == 2
    assert report["figures"]["full_disk"]["faults"] == [place]
