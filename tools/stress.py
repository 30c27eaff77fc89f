"""Robustness figures: kills, malformed inputs, full disks, unwritable folders, NaN.

    python tools/stress.py                     # what `make stress` runs: all of it, docs/results/stress.json
    python tools/stress.py --short -o s.json   # a few seconds of each

Everything runs the commands as they are, on small models, in processes that fork from this one (robustness/sandbox.py).
Exit code 1 when anything ends wrongly.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Annotated, Any

import typer
from robustness import kills, malformed, places
from robustness.sandbox import run_tasks
from robustness.workshop import Workshop, make_workshop

from qvggt.cli.versions import versions
from qvggt.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
RELEASE = ROOT / "tests" / "data" / "quantvggt_release"
ROOMS = ("export", "engines", "calib", "eval")
RESULTS = ROOT / "docs" / "results" / "stress.json"

KILLS = {"build": 2, "calibrate": 12, "export": 18, "eval": 18, "scenes": 4}  # the slowest first
CASES = 240
CHUNK = 30  # damaged files a task
SHORT_KILLS = {"export": 3}
SHORT_CASES = 12
SHORT_JOBS = ("export",)


def stress(
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the figures.")] = RESULTS,
    short: Annotated[bool, typer.Option("--short", help="A few cases of each kind, without engines.")] = False,
    cases: Annotated[int | None, typer.Option(min=1, help="Damaged files.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of damage and moments.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time. [CPU cores, at most 8]")] = None,
) -> None:
    """Run everything, print the figures and write them as JSON."""
    start = time.monotonic()
    import_everything()
    with tempfile.TemporaryDirectory(prefix="qvggt-stress-") as name:
        folder = Path(name)
        shop = make_workshop(folder / "workshop", engine=not short)
        malformed.prepare(shop, RELEASE)
        tasks = plan(shop, folder, short, cases or (SHORT_CASES if short else CASES), seed)
        at_once = jobs or min(8, os.cpu_count() or 1)
        done = {}
        for name, value in run_tasks(tasks, folder, at_once):
            done[name] = value
            print(f"[{len(done)}/{len(tasks)}] {name}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    figures = gathered(done)
    faults = [line for section in figures.values() for line in fault_lines(section)]
    report = {
        "seed": seed,
        "short": short,
        "figures": figures,
        "faults": len(faults),
        "seconds": round(time.monotonic() - start, 1),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions(),
    }
    with atomic_write(output) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(figures))
    for line in faults[:40]:
        print(f"FAULT {line}", file=sys.stderr)
    print(f"{len(faults)} faults, {report['seconds']:.0f} s, figures in {output}")
    if faults:
        raise typer.Exit(1)


def import_everything() -> None:
    """Load what the commands import: once, here, and so that a change of the sources meanwhile changes no result."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import PIL.Image  # noqa: F401
    import scipy.spatial  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import torch

    for room in ("qvggt", *(f"qvggt.{name}" for name in ROOMS)):
        for module in walk_packages(import_module(room).__path__, f"{room}."):
            import_module(module.name)
    torch.set_num_threads(1)


def plan(shop: Workshop, folder: Path, short: bool, cases: int, seed: int) -> dict[str, Callable[[], Any]]:
    """Independent tasks by name, each in a folder of its own."""
    known, wanted = kills.jobs(shop), SHORT_KILLS if short else KILLS

    def killing(name: str, count: int) -> Callable[[], Any]:
        return lambda: asdict(kills.kill_job(known[name], folder / f"kill-{name}", count, seed))

    def damaging(start: int) -> Callable[[], Any]:
        part = range(start, min(start + CHUNK, cases))
        return lambda: malformed.summary(list(malformed.run_cases(shop, folder / f"damage-{start}", part, seed)))

    def words() -> Any:
        return malformed.summary(list(malformed.run_words(shop, folder / "words", 1 if short else 2, seed)))

    tasks = {f"kills {name}": killing(name, count) for name, count in wanted.items() if name in known}
    tasks |= {f"malformed {start}": damaging(start) for start in range(0, cases, CHUNK)}
    tasks |= {"malformed words": words} if not short else {}
    chosen = [job for name, job in known.items() if name != "build" and (not short or name in SHORT_JOBS)]
    tasks["full_disk"] = lambda: places.summary(list(places.full_disks(chosen, folder / "full")))
    tasks["unwritable"] = lambda: places.summary(list(places.unwritable(chosen, folder / "closed")))
    if not short:
        tasks["not_numbers"] = lambda: places.summary(list(places.not_numbers(shop, folder / "nan")))
    return tasks


def gathered(done: dict[str, Any]) -> dict[str, Any]:
    """Results of the tasks, by section."""
    figures = {
        "kills": kills.summary([value for name, value in done.items() if name.startswith("kills ")]),
        "malformed": malformed.merged([value for name, value in done.items() if name.startswith("malformed ")]),
    }
    figures["kills"]["not_run"] = sorted(set(KILLS) - {job["job"] for job in figures["kills"]["jobs"]})
    return figures | {name: done[name] for name in ("full_disk", "unwritable", "not_numbers") if name in done}


def fault_lines(section: dict[str, Any]) -> list[str]:
    lines = [f"{job['job']}: {fault}" for job in section.get("jobs", []) for fault in job["faults"]]
    for fault in section.get("faults", []):
        where = fault.get("case") or {key: fault[key] for key in ("job", "place")}
        lines.append(f"{where}: {fault['why']}")
    return lines


def table(figures: dict[str, Any]) -> str:
    killed, damaged = figures["kills"], figures["malformed"]
    lines = [
        f"kills: {killed['kills']} (SIGKILL) in {killed['rounds']} rounds, same result after {killed['same_result']}",
        *(
            f"  {job['job']}: {job['kills']} kills, {job['resumed']}/{job['rounds']} same, {job['litter']} left-overs"
            for job in killed["jobs"]
        ),
        f"malformed inputs: {damaged['cases']} cases of {len(damaged['by_kind'])} kinds: "
        + ", ".join(f"{count} {verdict}" for verdict, count in sorted(damaged["verdicts"].items())),
    ]
    for name, title in (("full_disk", "full disk"), ("unwritable", "unwritable places"), ("not_numbers", "NaN")):
        if name in figures:
            section = figures[name]
            counts = f"{section['refused']} refused, {section['harmless']} harmless, {len(section['faults'])} faults"
            lines.append(f"{title}: {section['cases']} cases, {counts}")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(stress)
