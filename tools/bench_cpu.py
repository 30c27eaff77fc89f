"""Latency ratios, peak memory and file bytes on this CPU: PyTorch fp32 / ONNX Runtime fp32, w8a8, w4a4.

    python tools/bench_cpu.py                                # the tiny model
    python tools/bench_cpu.py --model random-1b --frames 2 --size 266x266 --rounds 3 --no-together

Every candidate lives in a process of its own (so that peak memory is its own), and the calls go round-robin, so that
a noisy machine disturbs all alike: trust the ratios of one run, not seconds across runs. `random-1b` is VGGT-1B with
random weights: speed and bytes do not depend on the values. `--no-together` loads one candidate after the other, for
models of which four do not fit into memory.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from qvggt.progress import bar

RANDOM_1B = "random-1b"


@dataclass(frozen=True)
class Candidate:
    """label: row name. onnx: file for ONNX Runtime, None for PyTorch on `model`."""

    label: str
    model: str
    onnx: str | None
    threads: int


def load_float(name: str) -> Any:
    """A float VGGT by name; `random-1b` is built with seeded random weights and no track head."""
    import torch

    from qvggt.model import VGGT, VGGT_1B, load_model

    if name != RANDOM_1B:
        return load_model(name, heads=("camera", "point", "depth"))
    torch.manual_seed(0)
    return VGGT(VGGT_1B.replace(heads=("camera", "point", "depth"))).requires_grad_(False).eval()


def serve(candidate: Candidate, pipe: Connection) -> None:
    """Worker: load, then time one forward pass per message until None comes."""
    import torch

    from qvggt.engines.onnx_runner import OnnxRunner
    from qvggt.engines.runner import Runner
    from qvggt.engines.torch_runner import TorchRunner

    torch.set_num_threads(candidate.threads)
    runner: Runner
    if candidate.onnx is None:
        runner = TorchRunner(load_float(candidate.model), candidate.label)
    else:
        runner = OnnxRunner(candidate.onnx, threads=candidate.threads)
    pipe.send("ready")
    while (images := pipe.recv()) is not None:
        start = time.perf_counter()
        runner(images)
        pipe.send(time.perf_counter() - start)
    pipe.send(peak_rss())


def peak_rss() -> int:
    """Peak resident memory of this process in bytes (getrusage would carry over that of the parent)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: peak memory needs Linux")


def write_files(model: str, bits: list[str], height: int, width: int, folder: Path) -> dict[str, int]:
    """Export every format; label -> bytes. The model is loaded anew for each, since quantizing is in place."""
    from qvggt.calib.rtn import quantize_rtn_
    from qvggt.export.exporter import ExportConfig, export_onnx
    from qvggt.quant.scheme import parse_scheme

    sizes = {}
    for name in bar(bits, desc="export", unit="file"):
        network, scheme = load_float(model), parse_scheme(name)
        quantize_rtn_(network, scheme)
        sizes[name] = export_onnx(network, scheme, ExportConfig(height, width), folder / f"{name}.onnx").bytes
    return sizes


class Worker:
    """A candidate in a process of its own."""

    def __init__(self, candidate: Candidate) -> None:
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(candidate, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def run(self, images: np.ndarray) -> float:
        """Seconds of one forward pass."""
        self.pipe.send(images)
        return float(self.pipe.recv())

    def finish(self) -> int:
        """Peak memory in bytes."""
        self.pipe.send(None)
        peak = int(self.pipe.recv())
        self.process.join()
        return peak


def measure(candidates: list[Candidate], images: np.ndarray, rounds: int, together: bool) -> list[dict[str, float]]:
    """Median and p90 seconds of `rounds` calls after one warm-up call, and peak memory in bytes.

    `together`: all candidates loaded at once, calls round-robin; else one candidate after the other.
    """
    results: list[dict[str, float]] = []
    groups = [candidates] if together else [[c] for c in candidates]
    with bar(total=len(candidates) * (rounds + 1), desc="measure", unit="call") as moved:
        for group in groups:
            workers = [Worker(candidate) for candidate in group]
            seconds: list[list[float]] = [[] for _ in group]
            for turn in range(rounds + 1):
                for worker, times in zip(workers, seconds, strict=True):
                    taken = worker.run(images)
                    if turn > 0:
                        times.append(taken)
                    moved.update()
            for worker, times in zip(workers, seconds, strict=True):
                figures = {"median_s": float(np.median(times)), "p90_s": float(np.quantile(times, 0.9))}
                results.append(figures | {"peak_rss": worker.finish()})
    return results


def main(
    model: Annotated[str, typer.Option(help="tiny, a float checkpoint, or random-1b.")] = "tiny",
    bits: Annotated[str, typer.Option(help="ONNX files to time.")] = "fp32,w8a8,w4a4",
    frames: Annotated[int, typer.Option(min=1)] = 4,
    size: Annotated[str, typer.Option(help="HxW in pixels.")] = "70x70",
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls per candidate.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each candidate.")] = 2,
    together: Annotated[
        bool, typer.Option(help="All candidates loaded at once, calls in turn; without, one after the other.")
    ] = True,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path("outputs/bench_cpu.json"),
) -> None:
    """Time the candidates in one run and print their ratios."""
    from qvggt.cli.versions import versions
    from qvggt.files import atomic_write

    height, width = (int(side) for side in size.split("x"))
    names = bits.split(",")
    images = np.random.default_rng(0).random((frames, 3, height, width), dtype=np.float32)
    with tempfile.TemporaryDirectory(prefix="qvggt-bench-") as folder:
        sizes = write_files(model, names, height, width, Path(folder))
        candidates = [Candidate("PyTorch fp32", model, None, threads)]
        candidates += [Candidate(f"ONNX Runtime {n}", model, f"{folder}/{n}.onnx", threads) for n in names]
        results = measure(candidates, images, rounds, together)
    rows = []
    base = results[0]["median_s"]
    print(f"{model}, {frames} frames of {height}x{width}, {threads} threads, {rounds} rounds")
    print(f"{'candidate':22} {'median s':>9} {'p90 s':>9} {'speed-up':>9} {'peak RSS MB':>12} {'file MB':>9}")
    for candidate, result, name in zip(candidates, results, [None, *names], strict=True):
        row: dict[str, Any] = {"candidate": candidate.label, **result, "speed_up": base / result["median_s"]}
        row["file_bytes"] = sizes.get(name) if name else None
        rows.append(row)
        file_mb = "-" if row["file_bytes"] is None else f"{row['file_bytes'] / 1e6:.1f}"
        print(
            f"{candidate.label:22} {result['median_s']:9.4f} {result['p90_s']:9.4f} {row['speed_up']:8.2f}x "
            f"{result['peak_rss'] / 1e6:12.0f} {file_mb:>9}"
        )
    call: dict[str, Any] = {
        "model": model,
        "frames": frames,
        "size": [height, width],
        "threads": threads,
        "rounds": rounds,
    }
    call["together"] = together
    with atomic_write(output) as temporary:
        temporary.write_text(json.dumps({"call": call, "versions": versions(), "rows": rows}, indent=1) + "\n")
    print(f"wrote {output}")


if __name__ == "__main__":
    typer.run(main)
