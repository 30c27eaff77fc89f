"""Commands that run only when something they depend on has changed: what makes a second `make demo` instant."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from reporting import write_json

from qvggt.errors import QvggtError
from qvggt.files import file_sha256


class StepFailed(Exception):
    """A step's command ended with another code than 0; it has said why itself."""

    def __init__(self, step: Step, code: int) -> None:
        super().__init__(f"{step.name} failed (exit code {code}); the command was: {shlex.join(step.command)}")
        self.code = code


@dataclass(frozen=True)
class Step:
    """command: argv. inputs and outputs: files or folders; an output folder must hold nothing but this step's work."""

    name: str
    command: tuple[str, ...]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]


@dataclass(frozen=True)
class Stamp:
    """What a finished step rested on, what it made (path -> SHA-256) and what it printed."""

    fingerprint: str
    outputs: dict[str, str]
    printed: str
    seconds: float


def run_step(step: Step, stamps: Path, context: str) -> tuple[Stamp, bool]:
    """Run the step, or reuse what it made before; the flag says which (True: reused).

    Reused when its last run in the folder `stamps` had the same command, the same content of all inputs and the same
    `context` (a hash of code and versions), and its outputs are as that run left them. QvggtError when an input is
    missing, or an output after the command; StepFailed with its code when the command fails.
    """
    for path in step.inputs:
        if not path.exists():
            raise QvggtError(f"{path}: missing, but step {step.name!r} reads it; run the steps before it")
    place = stamps / f"{step.name.replace(' ', '-')}.json"
    wanted = fingerprint(step, context)
    last = read_stamp(place)
    if last is not None and last.fingerprint == wanted and last.outputs == digests(step.outputs):
        return last, True
    place.unlink(missing_ok=True)
    start = time.monotonic()
    printed = execute(step)
    made = digests(step.outputs)
    for path in step.outputs:
        if str(path) not in made:
            raise QvggtError(f"{path}: step {step.name!r} ended well but did not write it")
    stamp = Stamp(wanted, made, printed, time.monotonic() - start)
    write_json(place, asdict(stamp), told=False)
    return stamp, False


def execute(step: Step) -> str:
    """Run the command, showing its output as it comes (errors and progress bars go their own way); the text of it."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    lines = []
    with subprocess.Popen(step.command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"    {line}", end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise StepFailed(step, process.returncode)
    return "".join(lines)


def fingerprint(step: Step, context: str) -> str:
    described = {"command": step.command, "inputs": digests(step.inputs), "context": context}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def digests(paths: Sequence[Path]) -> dict[str, str]:
    """Path -> hash of its content, of those that exist."""
    return {str(path): digest(path) for path in paths if path.exists()}


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of all files in a folder."""
    if path.is_file():
        return file_sha256(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    listing = [[p.relative_to(path).as_posix(), file_sha256(p)] for p in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def read_stamp(path: Path) -> Stamp | None:
    """The stamp of a finished run; None when there is none or it cannot be read: then the step runs again."""
    try:
        return Stamp(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
