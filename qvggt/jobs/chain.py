"""Jobs one after the other, each run only where something it depends on has changed; the journal says what is done."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from qvggt.errors import QvggtError
from qvggt.files import file_sha256
from qvggt.jobs.job import Job
from qvggt.journal import Journal
from qvggt.mapping import from_mapping
from qvggt.progress import Console

ROOMS = ("", ".export", ".engines", ".calib", ".eval")


@dataclass(frozen=True)
class Step:
    """inputs and outputs: files or folders; an output folder must hold nothing but this step's work. result: file for
    the job's result as JSON."""

    name: str
    job: Job[Any]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    result: Path


@dataclass(frozen=True)
class Done:
    """A finished step: what it rested on, what it made (path -> SHA-256), and whether its checks passed."""

    fingerprint: str
    outputs: dict[str, str]
    passed: bool
    seconds: float


class Quieter(Console):
    """A step's console inside a longer job: its results are news there, no more."""

    def __init__(self, outer: Console) -> None:
        self.outer = outer
        self.bars = outer.bars

    def detail(self, text: str) -> None:
        self.outer.detail(_indented(text))

    def say(self, text: str) -> None:
        self.outer.say(_indented(text))

    def result(self, text: str) -> None:
        self.outer.say(_indented(text))

    def warn(self, text: str) -> None:
        self.outer.warn(text)


def run_steps(steps: Sequence[Step], journal: Journal, console: Console) -> dict[str, Done]:
    """Run what is not done yet, in order; ends after the first step whose checks fail, which is run again next time.

    A step is reused when its last run had the same job, the same content of all inputs, the same code and versions of
    the libraries, and its outputs are as it left them. QvggtError when an input is missing, or an output afterwards.
    """
    finished: dict[str, Done] = {}
    digests = Digests()
    for number, step in enumerate(steps, start=1):
        console.say(f"[{number}/{len(steps)}] {step.name}")
        done, reused = run_step(step, journal, digests, console)
        finished[step.name] = done
        console.say("    unchanged, reused" if reused else f"    {done.seconds:.0f} s")
        if not done.passed:
            break
    return finished


def run_step(step: Step, journal: Journal, digests: Digests, console: Console) -> tuple[Done, bool]:
    """Run a step, or take what it made before; the flag says which (True: reused)."""
    for path in step.inputs:
        if not path.exists():
            raise QvggtError(f"{path}: missing, but step {step.name!r} reads it")
    wanted = fingerprint(step, digests)
    if (last := journal.values.get(step.name)) is not None:
        done = from_mapping(Done, last, f"{journal.path}: {step.name}", advice="delete the file to start anew")
        if done.fingerprint == wanted and done.outputs == digests.of((*step.outputs, step.result)):
            return done, True
    start = time.monotonic()
    result = step.job.run(Quieter(console))
    result.save(step.result)
    outputs = (*step.outputs, step.result)
    made = digests.of(outputs)
    for path in outputs:
        if result.passed and str(path) not in made:
            raise QvggtError(f"{path}: step {step.name!r} ended well but did not write it")
    done = Done(wanted, made, result.passed, time.monotonic() - start)
    if done.passed:
        journal.add(step.name, asdict(done))
    return done, False


def fingerprint(step: Step, digests: Digests) -> str:
    """Hash of everything a step depends on."""
    described = {"job": step.job.to_dict(), "inputs": digests.of(step.inputs), "context": code_and_versions()}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


class Digests:
    """SHA-256 of files, and of folders as the names and hashes of all files in them; read again only when changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}

    def of(self, paths: Sequence[Path]) -> dict[str, str]:
        """Path -> hash of its content, of those that exist."""
        return {str(path): self._digest(path) for path in paths if path.exists()}

    def _digest(self, path: Path) -> str:
        if path.is_file():
            stat = path.stat()
            key = (str(path), stat.st_size, stat.st_mtime_ns)
            if key not in self._known:
                self._known[key] = file_sha256(path)
            return self._known[key]
        files = sorted(p for p in path.rglob("*") if p.is_file())
        listing = [[p.relative_to(path).as_posix(), self._digest(p)] for p in files]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


@cache
def code_and_versions() -> str:
    """Hash of this package's code and of the versions of what it is built on."""
    from qvggt.versions import versions

    hashed = hashlib.sha256(json.dumps(versions(), sort_keys=True).encode())
    for room in ROOMS:
        folder = Path(import_module(f"qvggt{room}").__path__[0])
        for path in sorted(folder.rglob("*.py")):
            hashed.update(f"{room}/{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return hashed.hexdigest()


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
