"""Robustness figures: kills, full disks, unwritable folders, NaN. `make stress` runs this, and tests/robustness deeply.

    python tools/stress.py                     # all of it, docs/results/stress.json
    python tools/stress.py --short -o s.json   # a few seconds of each

Everything runs the commands as they are, on small models, in processes that fork from this one; what they share with
the tests is in tests/robustness/. A job is killed up to three times in a row before it may finish, so a resumed run is
killed too. Exit code 1 when anything ends wrongly.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from reporting import write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "robustness"))
from hostile_places import Place, full_disks, not_numbers, unwritable
from sandbox import Job, Outcome, fresh, import_everything, jobs, make_workshop, names

from qvggt.jobs.chain import Digests
from qvggt.progress import bar
from qvggt.versions import versions

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "stress.json"
KILLS = {"build": 2, "calibrate": 12, "export": 18, "eval": 18, "scenes": 4}  # the slowest first
SHORT_KILLS = {"export": 3}
IN_A_ROW = 3
ATTEMPTS = 6  # kills that came too late, per kill wanted
TIMES = ("seconds", "timings", "latency", "memory")  # of a report: the machine's, not the result's
SECTIONS = {"full_disk": "full disk", "unwritable": "unwritable places", "not_numbers": "NaN"}


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, of a report without the times measured, or of the names and contents of a folder."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(item) for key, item in value.items() if key not in TIMES}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    if path.suffix != ".json":
        return Digests().of([path])[str(path)]
    return hashlib.sha256(json.dumps(timeless(json.loads(path.read_text())), sort_keys=True).encode()).hexdigest()


def kill_job(job: Job, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """At least `kills` kills of one job at moments drawn evenly from the time an undisturbed run takes.

    kills: processes that SIGKILL ended. resumed: final runs that gave the same bytes, of `rounds`. litter: hidden
    temporary names that are still there after the final run. faults: one line each.
    """
    random = Random(f"{seed}/{job.name}")
    reference, seconds, faults = undisturbed(job, folder / "reference")
    done = rounds = resumed = litter = 0
    tries = ATTEMPTS * kills
    while done < kills and tries > 0 and not faults:
        out = fresh(folder / "out")
        killed = 0
        while killed < IN_A_ROW and done < kills and tries > 0:
            tries -= 1
            outcome = job.run(out, kill_after=random.uniform(0.0, seconds))
            if outcome.code != -signal.SIGKILL:
                faults += wrong_end(outcome, "a resumed run")
                break
            done, killed = done + 1, killed + 1
            # a scenes folder grows scene by scene; anything else is whole once it has its final name
            if job.name != "scenes" and (out / job.result).exists() and not whole(out / job.result, reference):
                faults.append(f"{job.result} is there after a kill, but not whole")
        rounds += 1
        if job.name == "calibrate" and (out / job.result).exists() and whole(out / job.result, reference):
            resumed += 1  # the kill came after the rename: finished, and the same command says so
            continue
        if wrong := wrong_end(job.run(out), f"after {killed} kills the command"):
            faults += wrong
            continue
        same = whole(out / job.result, reference)
        resumed += same
        faults += [] if same else [f"{job.result} differs from an undisturbed run after {killed} kills"]
        hidden = [name for name in names(out) if Path(name).name.startswith(".")]
        litter += len(hidden)
        faults += [f"{name} stays after {killed} kills and a finished run" for name in hidden]
    figures = {"job": job.name, "kills": done, "rounds": rounds, "resumed": resumed, "litter": litter}
    return figures | {"seconds": seconds, "faults": faults}


def undisturbed(job: Job, out: Path) -> tuple[str, float, list[str]]:
    """Fingerprint and time of a run in peace, and what keeps a second one from giving the same."""
    found = []
    for _ in range(2):
        outcome = job.run(fresh(out))
        if wrong := wrong_end(outcome, "an undisturbed run"):
            return "", outcome.seconds, wrong
        found.append(fingerprint(out / job.result))
    return found[0], outcome.seconds, [] if found[0] == found[1] else ["two undisturbed runs give different bytes"]


def wrong_end(outcome: Outcome, what: str) -> list[str]:
    return [f"{what} ended with {outcome.code}: {outcome.err[-300:]}"] if outcome.code else []


def whole(path: Path, wanted: str) -> bool:
    try:
        return fingerprint(path) == wanted
    except ValueError:  # a report that is no JSON
        return False


def listed(places: Callable[..., Iterator[Place]], *args: Any) -> list[Place]:
    """Generators do not travel between processes."""
    return list(places(*args))


def plan(shop: Path, folder: Path, short: bool, seed: int) -> dict[str, Callable[[], Any]]:
    """Independent tasks by name, each in a folder of its own."""
    known = jobs(shop)
    killed = {name: count for name, count in (SHORT_KILLS if short else KILLS).items() if name in known}
    chosen = [job for name, job in known.items() if name != "build" and (not short or name in SHORT_KILLS)]
    tasks: dict[str, Callable[[], Any]] = {}
    tasks |= {f"kills {n}": partial(kill_job, known[n], folder / f"kill-{n}", killed[n], seed) for n in killed}
    tasks["full_disk"] = partial(listed, full_disks, chosen, folder / "full")
    tasks["unwritable"] = partial(listed, unwritable, chosen, folder / "closed")
    if not short:
        tasks["not_numbers"] = partial(listed, not_numbers, shop, folder / "nan")
    return tasks


def gathered(done: dict[str, Any]) -> dict[str, Any]:
    """Results of the tasks, by section."""
    killed = [value for name, value in done.items() if name.startswith("kills ")]
    totals = {total: sum(job[key] for job in killed) for total, key in (("kills", "kills"), ("rounds", "rounds"))}
    totals["same_result"] = sum(job["resumed"] for job in killed)
    not_run = sorted(set(KILLS) - {job["job"] for job in killed})
    figures: dict[str, Any] = {"kills": {**totals, "jobs": killed, "not_run": not_run}}
    for name in SECTIONS:
        if name in done:
            places: list[Place] = done[name]
            figures[name] = {
                "cases": len(places),
                **{verdict: sum(p["verdict"] == verdict for p in places) for verdict in ("refused", "harmless")},
                "faults": [p for p in places if p["verdict"] == "fault"],
                "places": sorted({p["place"] for p in places}),
            }
    return figures


def fault_lines(figures: dict[str, Any]) -> list[str]:
    lines = [f"{job['job']}: {fault}" for job in figures["kills"]["jobs"] for fault in job["faults"]]
    faults = [fault for name in SECTIONS if name in figures for fault in figures[name]["faults"]]
    return [*lines, *(f"{fault['job']} {fault['place']}: {fault['why']}" for fault in faults)]


def table(figures: dict[str, Any]) -> str:
    killed = figures["kills"]
    lines = [
        f"kills: {killed['kills']} (SIGKILL) in {killed['rounds']} rounds, same result after {killed['same_result']}"
    ]
    for job in killed["jobs"]:
        same = f"{job['resumed']}/{job['rounds']} same"
        lines.append(f"  {job['job']}: {job['kills']} kills, {same}, {job['litter']} left-overs")
    for name, title in SECTIONS.items():
        if name in figures:
            section = figures[name]
            counts = f"{section['refused']} refused, {section['harmless']} harmless, {len(section['faults'])} faults"
            lines.append(f"{title}: {section['cases']} cases, {counts}")
    return "\n".join(lines)


def stress(
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the figures.")] = RESULTS,
    short: Annotated[bool, typer.Option("--short", help="A few cases of each kind, without engines.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the moments.")] = 0,
    workers: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Processes at a time. [CPU cores, at most 8]")
    ] = None,
) -> None:
    """Run everything, print the figures and write them as JSON."""
    start = time.monotonic()
    import_everything()
    done: dict[str, Any] = {}
    at_once = workers or min(8, os.cpu_count() or 1)
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="qvggt-stress-") as temporary:
        shop = make_workshop(Path(temporary) / "workshop", engine=not short)
        tasks = plan(shop, Path(temporary), short, seed)
        with ProcessPoolExecutor(at_once, mp_context=context) as pool:
            running = {pool.submit(task): name for name, task in tasks.items()}
            for future in bar(as_completed(running), total=len(tasks), desc="stress", unit="task"):
                done[running[future]] = future.result()
    figures = gathered(done)
    faults = fault_lines(figures)
    report = {
        "seed": seed,
        "short": short,
        "figures": figures,
        "faults": len(faults),
        "seconds": round(time.monotonic() - start, 1),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions(),
    }
    write_json(output, report, told=False)
    print(table(figures))
    for line in faults[:40]:
        print(f"FAULT {line}", file=sys.stderr)
    print(f"{len(faults)} faults, {report['seconds']:.0f} s, figures in {output}")
    if faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(stress)
