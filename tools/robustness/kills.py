"""SIGKILL at random moments of calibrate, export, eval, build and scenes, then the same command again: same bytes.

A job is killed up to three times in a row before it may finish, so a resumed run is killed too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

from robustness.judging import names
from robustness.sandbox import Work, command, run_forked
from robustness.workshop import QUICK, SIZE, Workshop

IN_A_ROW = 3
ATTEMPTS = 6  # kills that came too late, per kill wanted
TIMES = ("seconds", "timings", "latency", "memory")  # of a report: the machine's, not the result's


@dataclass(frozen=True)
class Job:
    """A command that writes `results` (names in the output folder): name -> its fingerprint."""

    name: str
    work: Callable[[Path], Work]
    results: tuple[str, ...]
    fingerprint: Callable[[Path], str]


@dataclass(frozen=True)
class KillFigures:
    """kills: processes that SIGKILL ended. resumed: final runs that gave the same bytes, of `rounds`. litter: hidden
    temporary names that are still there after the final run. faults: one line each."""

    job: str
    kills: int
    rounds: int
    resumed: int
    litter: int
    seconds: float
    faults: tuple[str, ...]


def tree_sha256(path: Path) -> str:
    """Of a file, or of the names and contents of a folder."""
    from qvggt.files import file_sha256

    if path.is_file():
        return file_sha256(path)
    listing = [[p.relative_to(path).as_posix(), file_sha256(p)] for p in sorted(path.rglob("*")) if p.is_file()]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def report_sha256(path: Path) -> str:
    """Of an evaluation report without the times measured."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(item) for key, item in value.items() if key not in TIMES}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    return hashlib.sha256(json.dumps(timeless(json.loads(path.read_text())), sort_keys=True).encode()).hexdigest()


def jobs(shop: Workshop) -> dict[str, Job]:
    """The commands, on the workshop's inputs. build: only where the workshop could build an engine."""
    model, scenes = shop / "float" / "model.safetensors", shop / "scenes"
    data = ["--root", scenes, "--frames", 2, "--min-frames", 2, "--warmup", 0]

    def calibrate(out: Path) -> Work:
        return command("calibrate", [model, "--bits", "w4a4", "--data", scenes, *QUICK, "-o", out / "c"])

    def export(out: Path) -> Work:
        return command("export", [shop / "calibrated", "--no-check", "-o", out / "m.onnx"])

    def evaluate(out: Path) -> Work:
        kept = ["--records", out / "r.jsonl", "--json", out / "r.json"]
        return command("evaluate", ["--model", model, "--engine", shop / "onnx" / "m.onnx", *data, *kept])

    def make_scenes(out: Path) -> Work:
        return command("scenes", [out / "s", "--train", 1, "--test", 1, "--frames", 2, "--size", SIZE])

    def build(out: Path) -> Work:
        return command("build", [shop / "engine" / "m.onnx", "-o", out / "m.engine", "--frames", "2"])

    found = [
        Job("calibrate", calibrate, ("c",), tree_sha256),
        Job("export", export, ("m.onnx",), tree_sha256),
        Job("eval", evaluate, ("r.json",), report_sha256),
        Job("scenes", make_scenes, ("s",), tree_sha256),
        Job("build", build, ("m.engine",), tree_sha256),
    ]
    return {job.name: job for job in found if job.name != "build" or (shop / "engine").is_dir()}


def kill_job(job: Job, folder: Path, kills: int, seed: int) -> KillFigures:
    """At least `kills` kills of one job at moments drawn evenly from the time an undisturbed run takes."""
    random = Random(f"{seed}/{job.name}")
    reference, seconds, faults = undisturbed(job, folder / "reference")
    done = rounds = resumed = litter = 0
    tries = ATTEMPTS * kills
    while done < kills and tries > 0 and not faults:
        out = fresh(folder / "out")
        killed = 0
        while killed < IN_A_ROW and done < kills and tries > 0:
            tries -= 1
            outcome = run_forked(job.work(out), kill_after=random.uniform(0.0, seconds))
            if outcome.signal != SIGKILL:
                if outcome.code != 0:
                    faults.append(f"a resumed run ended with {outcome.code}: {outcome.err[-300:]}")
                break
            done, killed = done + 1, killed + 1
            faults += visible(job, out, reference)
        rounds += 1
        if job.name == "calibrate" and (out / "c").exists() and not visible(job, out, reference):
            resumed += 1  # the kill came after the rename: finished, and the same command says so
            continue
        outcome = run_forked(job.work(out))
        if outcome.code != 0:
            faults.append(f"after {killed} kills the command ended with {outcome.code}: {outcome.err[-300:]}")
            continue
        wrong = [name for name in job.results if job.fingerprint(out / name) != reference[name]]
        resumed += not wrong
        faults += [f"{name} differs from an undisturbed run after {killed} kills" for name in wrong]
        litter += sum(Path(name).name.startswith(".") for name in names(out))
    return KillFigures(job.name, done, rounds, resumed, litter, seconds, tuple(faults))


def undisturbed(job: Job, out: Path) -> tuple[dict[str, str], float, list[str]]:
    """Fingerprints and time of a run in peace, and what keeps a second one from giving the same."""
    found: list[dict[str, str]] = []
    for _ in range(2):
        outcome = run_forked(job.work(fresh(out)))
        if outcome.code != 0:
            return {}, outcome.seconds, [f"an undisturbed run ended with {outcome.code}: {outcome.err[-300:]}"]
        found.append({name: job.fingerprint(out / name) for name in job.results})
    return found[0], outcome.seconds, [] if found[0] == found[1] else ["two undisturbed runs give different bytes"]


def visible(job: Job, out: Path, reference: dict[str, str]) -> list[str]:
    """Results that are there under their final name, but not whole. A scenes folder grows scene by scene."""
    if job.name == "scenes":
        return []
    there = [name for name in job.results if (out / name).exists()]
    return [
        f"{name} is there after a kill, but not whole" for name in there if not whole(job, out / name, reference[name])
    ]


def whole(job: Job, path: Path, wanted: str) -> bool:
    try:
        return job.fingerprint(path) == wanted
    except ValueError:  # a report that is no JSON
        return False


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def summary(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Totals over the jobs; `figures` are KillFigures as dictionaries."""
    return {
        "kills": sum(f["kills"] for f in figures),
        "rounds": sum(f["rounds"] for f in figures),
        "same_result": sum(f["resumed"] for f in figures),
        "jobs": list(figures),
    }
