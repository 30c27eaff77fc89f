"""Latency ratios, peak memory and file bytes on this CPU: PyTorch, ONNX Runtime and OpenVINO.

    python tools/bench_cpu.py                                                   # the tiny model
    python tools/bench_cpu.py --model slice-1b --size 518x518 --frames 1        # three blocks of VGGT-1B
    python tools/bench_cpu.py --model random-1b --frames 2 --size 266x266 --rounds 2 --no-together

Every candidate lives in a process of its own (so that peak memory is its own), and the calls go round-robin, so that
a noisy machine disturbs all alike: trust the ratios of one run, not seconds across runs. On a machine that others use
as well, trust processor time with `--threads 1` (`cpu`): it does not count the time in which others ran. `random-1b`
is VGGT-1B with random weights: speed and bytes do not depend on the values. `--no-together` loads one candidate after
the other, for models of which several do not fit into memory. `slice-1b` is two of its blocks, `head-1b` its depth head
behind one block of each sort.

`--files` are written BITS[:static][+PART...][/fused]: `w8a8:static+dpt/fused` has constant activation ranges,
quantized DPT convolutions, and attention as one operator of ONNX Runtime and OpenVINO instead of standard ones.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from calibrated import folds
from cpu_candidates import SLICE_1B, Array, Candidate, Timing, Worker, make_input, parse_spec, write_file
from reporting import sqnr_db, start, write_json

from qvggt.progress import bar

FILES = "fp32,w8a8,w8a8/fused"


def measure(candidates: list[Candidate], images: Array, rounds: int, together: bool) -> list[Timing]:
    """`rounds` calls of each after one warm-up call.

    `together`: all candidates loaded at once, calls round-robin; else one candidate after the other.
    """
    results: list[Timing] = []
    groups = [candidates] if together else [[c] for c in candidates]
    with bar(total=len(candidates) * (rounds + 1), desc="measure", unit="call") as moved:
        for group in groups:
            workers = [Worker(candidate) for candidate in group]
            for turn in range(rounds + 1):
                for worker in workers:
                    worker.call(images, counts=turn > 0)
                    moved.update()
            results += [worker.finish() for worker in workers]
    return results


def rows_of(candidates: list[Candidate], timings: list[Timing], sizes: dict[str, int]) -> list[dict[str, Any]]:
    """One JSON row a candidate; ratios and SQNR against the first."""
    rows = []
    first = timings[0]
    for candidate, timing in zip(candidates, timings, strict=True):
        wall, cpu = np.array(timing.wall), np.array(timing.cpu)
        row: dict[str, Any] = {
            "candidate": candidate.label,
            "median_s": float(np.median(wall)),
            "p90_s": float(np.quantile(wall, 0.9)),
            "cpu_s": float(np.median(cpu)),
            "cpu_min_s": float(cpu.min()),
            "cpu_max_s": float(cpu.max()),
            "peak_rss": timing.peak_rss,
            "speed_up": float(np.median(first.wall) / np.median(wall)),
            "cpu_speed_up": float(np.median(first.cpu) / np.median(cpu)),
            "file_bytes": None if candidate.spec is None else sizes[candidate.spec],
        }
        if candidate is not candidates[0]:
            row["sqnr_db"] = {n: sqnr_db(first.outputs[n], v) for n, v in timing.outputs.items()}
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'candidate':34} {'wall s':>9} {'cpu s':>9} {'wall x':>7} {'cpu x':>7} {'cpu spread':>11} "
        f"{'RSS MB':>8} {'file MB':>8} {'worst dB':>9}"
    )
    for row in rows:
        spread = f"{(row['cpu_max_s'] - row['cpu_min_s']) / row['cpu_s']:.0%}"
        size = "-" if row["file_bytes"] is None else f"{row['file_bytes'] / 1e6:.1f}"
        worst = f"{min(row['sqnr_db'].values()):.1f}" if "sqnr_db" in row else "-"
        print(
            f"{row['candidate']:34} {row['median_s']:9.4f} {row['cpu_s']:9.4f} {row['speed_up']:6.2f}x "
            f"{row['cpu_speed_up']:6.2f}x {spread:>11} {row['peak_rss'] / 1e6:8.0f} {size:>8} {worst:>9}"
        )


def main(
    model: Annotated[str, typer.Option(help="tiny, a float checkpoint, random-1b, slice-1b or head-1b.")] = "tiny",
    files: Annotated[str, typer.Option(help="ONNX files to time, comma-separated; see above.")] = FILES,
    runtimes: Annotated[
        str, typer.Option(help="Of those files: onnxruntime, openvino, openvino-bf16.")
    ] = "onnxruntime,openvino,openvino-bf16",
    baselines: Annotated[str, typer.Option(help="PyTorch float types; the first row is what ratios are of.")] = (
        "fp32,bf16"
    ),
    only: Annotated[str, typer.Option(help="Regular expression of the rows to run; the first PyTorch row stays.")] = "",
    frames: Annotated[int, typer.Option(min=1)] = 4,
    size: Annotated[str, typer.Option(help="HxW in pixels.")] = "70x70",
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls per candidate.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each candidate.")] = 2,
    together: Annotated[
        bool, typer.Option(help="All candidates loaded at once, calls in turn; without, one after the other.")
    ] = True,
    folder: Annotated[Path | None, typer.Option(help="Keep the files here, and use those that are there.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path("outputs/bench_cpu.json"),
) -> None:
    """Time the candidates in one run and print their ratios."""
    from qvggt.versions import PACKAGES, versions

    os.environ.setdefault("GOMP_SPINCOUNT", "300000")  # OpenMP's default: PyTorch as its users run it, not as we do
    height, width = (int(side) for side in size.split("x"))
    specs = [parse_spec(text) for text in files.split(",") if text]
    kinds = [("openvino", "bf16") if r == "openvino-bf16" else (r, "fp32") for r in runtimes.split(",") if r]
    images = make_input(model, frames, height, width)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="qvggt-bench-") as temporary:
        home = folder or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        sizes = {}
        for spec in bar(specs, desc="export", unit="file"):
            parts = [home / spec.file, home / f"{spec.file}.data"]
            if not parts[0].exists():
                write_file(model, spec, height, width, parts[0])
            sizes[spec.text] = sum(part.stat().st_size for part in parts if part.exists())
        blocks = model == SLICE_1B  # those of whole networks begin and end with images and outputs
        common: dict[str, Any] = {"model": model, "threads": threads, "size": (height, width)}
        candidates = [Candidate("torch", precision, **common) for precision in baselines.split(",") if precision]
        candidates += [
            Candidate(
                runtime,
                precision,
                spec=spec.text,
                onnx=str(home / spec.file),
                folded=blocks and folds(spec.bits),
                **common,
            )
            for runtime, precision in kinds
            for spec in specs
        ]
        candidates = candidates[:1] + [c for c in candidates[1:] if re.search(only, c.label)]
        timings = measure(candidates, images, rounds, together)
    rows = rows_of(candidates, timings, sizes)
    print(f"{model}, {frames} frames of {height}x{width}, {threads} threads, {rounds} rounds, load {load:.1f} before")
    show(rows)
    call = {"model": model, "frames": frames, "size": [height, width], "threads": threads, "rounds": rounds}
    report = {
        "call": {**call, "together": together},
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "versions": versions((*PACKAGES, "openvino")),
        "rows": rows,
    }
    write_json(output, report)


if __name__ == "__main__":
    start(main)
