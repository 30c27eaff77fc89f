"""What is a right ending: one line and exit code 2, or success; never a traceback, never half a file."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustness.sandbox import Outcome

Verdict = Literal["refused", "harmless", "check failed", "fault"]
RESUMABLE = ".unfinished"  # folders in which a calibration goes on: meant to stay


@dataclass(frozen=True)
class Judgement:
    """verdict, and for a fault what is wrong with the ending."""

    verdict: Verdict
    why: str = ""


def judge(outcome: Outcome, left: set[str], *, check: bool = False) -> Judgement:
    """`left`: names in the output folder afterwards. check: exit code 1 is a verdict of this command, not a fault."""
    if outcome.timed_out:
        return Judgement("fault", f"no end after {outcome.seconds:.0f} s")
    if outcome.signal is not None:
        return Judgement("fault", f"crash: {signal.Signals(outcome.signal).name}")
    if "Traceback (most recent call last)" in outcome.err:
        return Judgement("fault", "traceback: " + outcome.err.strip().splitlines()[-1][:200])
    if outcome.code == 0:
        return Judgement("harmless")
    if outcome.code == 1 and check:
        return Judgement("check failed")
    if outcome.code != 2:
        return Judgement("fault", f"exit code {outcome.code}: {outcome.err[:200]}")
    lines = shown_lines(outcome.err)
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) != 1 or not all(line.startswith(("error: ", "note: ")) for line in lines):
        return Judgement("fault", f"{len(lines)} lines on stderr: {outcome.err[:300]!r}")
    if len(errors[0]) > 1000:
        return Judgement("fault", f"a line of {len(errors[0])} characters: {errors[0][:200]}")
    if wrong := {name for name in left if RESUMABLE not in name}:
        return Judgement("fault", f"left behind: {', '.join(sorted(wrong)[:4])}")
    return Judgement("refused")


def shown_lines(text: str) -> list[str]:
    """What stays on a terminal: a progress bar writes over itself and is wiped."""
    lines = [line.split("\r")[-1].rstrip() for line in text.split("\n")]
    return [line for line in lines if line]


def names(folder: Path) -> set[str]:
    """Relative paths of everything in a folder, hidden things too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")} if folder.exists() else set()
