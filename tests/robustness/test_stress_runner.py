"""The short form of tools/stress.py, and the parts that decide what is right."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGSEGV
from typing import Any

import pytest
import sandbox
import stress
from hostile_places import limit_files
from sandbox import Outcome, judge, run_forked


def ended(code: int = 2, err: str = "error: x: expected y\n") -> Outcome:
    return Outcome(code, "", err, 0.1)


@pytest.mark.parametrize(
    ("outcome", "left", "verdict", "why"),
    [
        (ended(), set(), "refused", ""),
        (ended(err="note: z\nerror: x\n"), set(), "refused", ""),
        (ended(), {".c.unfinished", ".c.unfinished/job.json"}, "refused", ""),
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


def write_half(out: str) -> None:
    """A command that writes under the final name, slowly."""
    path = Path(out) / "m.onnx"
    for _ in range(20):
        with path.open("ab") as file:
            file.write(bytes(10))
        time.sleep(0.01)


def test_a_command_that_is_not_atomic_is_a_fault(clean: Callable[..., Any], tmp_path: Path) -> None:
    found = clean(kill_half, tmp_path)
    assert any("is there after a kill, but not whole" in fault for fault in found["faults"])


def kill_half(folder: Path) -> dict[str, Any]:
    """In the clean process: kills of a job that writes in place."""
    sandbox.command = lambda _name, line: partial(write_half, line[0])
    return stress.kill_job(sandbox.Job("half", "half", "m.onnx", ("{out}",)), folder, 3, 0)


def test_faults_are_listed() -> None:
    place = {"job": "export", "place": "here", "verdict": "fault", "why": "left behind: x", "said": ""}
    done = {"kills export": {"job": "export", "kills": 1, "rounds": 1, "resumed": 0, "litter": 1, "faults": ["bad"]}}
    figures = stress.gathered({**done, "full_disk": [place]})
    assert stress.fault_lines(figures) == ["export: bad", "export here: left behind: x"]
    assert figures["full_disk"]["faults"] == [place]
