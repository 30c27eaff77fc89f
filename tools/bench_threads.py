"""What idle threads cost: the tiny model with OpenMP threads that sleep and by default, on a machine idle and busy.

    python tools/bench_threads.py                      # docs/results/threads.json

Every cell is a process of its own: the policy is read when torch is loaded. Busy: as many other processes as there are
cores do the same all the while, as where several jobs run on one machine. Also the largest difference of the outputs
between thread counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from reporting import columns, start, write_json

from qvggt.threads import WAIT
from qvggt.versions import versions

ROOT = Path(__file__).resolve().parent.parent
POLICIES: dict[str, dict[str, str]] = {"sleep": {WAIT: "PASSIVE"}, "spin a while": {}}  # the latter is OpenMP's default
PROBE = """
import json, sys, time, numpy, torch
from qvggt.hub.loading import load
threads, passes = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
model = load("tiny")
images = torch.rand(4, 3, 70, 70, generator=torch.Generator().manual_seed(0))
model(images)
times = []
for _ in range(passes):
    begin = time.perf_counter()
    depth = model(images)["depth"]
    times.append(time.perf_counter() - begin)
print(json.dumps({"seconds": float(numpy.median(times)), "depth": depth.flatten().tolist()}))
"""


def command(threads: int, passes: int) -> list[str]:
    return [sys.executable, "-c", PROBE, str(threads), str(passes)]


def measure(policy: str, threads: int, passes: int, others: int) -> dict[str, Any]:
    """Median seconds of a pass, and the depths of the last; `others`: processes that do the same all the while."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    environment = {**plain, **POLICIES[policy]}
    endless = command(threads, 1_000_000)
    running = [subprocess.Popen(endless, env=environment, stdout=subprocess.DEVNULL) for _ in range(others)]
    try:
        done = subprocess.run(command(threads, passes), env=environment, capture_output=True, text=True, check=True)
    finally:
        for other in running:
            other.kill()
            other.wait()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(
    passes: Annotated[int, typer.Option(min=3, help="Passes of each process.")] = 20,
    output: Annotated[Path, typer.Option("-o", help="JSON to write.")] = ROOT / "docs/results/threads.json",
) -> None:
    """Measure, print a table, write JSON."""
    cores = os.cpu_count() or 1
    counts = sorted({1, cores})
    load = os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    depths: dict[int, list[float]] = {}
    for others in (0, cores):
        for threads in counts:
            for policy in POLICIES:
                found = measure(policy, threads, passes, others)
                depths[threads] = found["depth"]
                rows.append({"machine": "busy" if others else "idle", "threads": threads, "waiting": policy, **found})
    base = next(row["seconds"] for row in rows if row["machine"] == "idle" and row["threads"] == 1)
    for row in rows:
        del row["depth"]
        row["slower"] = row["seconds"] / base
    largest = max(abs(a - b) for a, b in zip(depths[counts[0]], depths[counts[-1]], strict=True))
    spec = {"machine": "machine", "threads": "threads", "idle threads": "waiting", "s": "seconds {:.4f}"}
    print(columns(rows, {**spec, "of one thread alone": "slower {:.2f}x"}))
    print(
        f"{cores} cores, load {load:.1f} before; depth of {counts[0]} and {counts[-1]} threads differs by {largest:.1e}"
    )
    write_json(
        output, {"cores": cores, "load": load, "rows": rows, "depth_difference": largest, "versions": versions()}
    )


if __name__ == "__main__":
    start(main)
