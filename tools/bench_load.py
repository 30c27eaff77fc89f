"""Memory and time to open a file of VGGT-1B's size in ONNX Runtime on this CPU, and what opening it costs its speed.

    python tools/bench_load.py                              # about five minutes and 6 GB of disk on a quiet machine
    python tools/bench_load.py --forms w4a8 --folder outputs/load --keep

Each file is opened in a process of its own: by ONNX Runtime from its path, and by our runner, which expands 4-bit
weights one by one first (`qvggt.engines.expanded_weights`). Weights are random: bytes and nodes do not depend on them.
`anonymous` is memory that cannot be taken from the process, `peak` also has mapped pages of files, which the system
takes back when it needs them. Speed is that of three blocks of the same width (`block_slice`), opened both ways in one
process, calls in turn.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from cpu_candidates import RANDOM_1B, load_float
from reporting import start, write_json

from qvggt.versions import versions

SIZE = (518, 518)
WAYS = ("onnxruntime", "qvggt")
ALL = 1 << 62  # weights, of which no file has so many


def write(form: str, path: Path) -> int:
    """A cpu file of VGGT-1B rounded to nearest; bytes."""
    import torch

    from qvggt.calib.rtn import quantize_rtn_
    from qvggt.export.exporter import ExportConfig, export_onnx
    from qvggt.quant.scheme import Scheme

    torch.set_num_threads(1)
    network, scheme = load_float(RANDOM_1B), Scheme(form)
    with torch.no_grad():
        quantize_rtn_(network, scheme, progress=False)
    return export_onnx(network, scheme, ExportConfig(*SIZE), path).bytes


def opened(path: Path, way: str) -> dict[str, float]:
    """Bytes and seconds of opening it, in this process."""
    from qvggt.engines import expanded_weights, onnx_runner

    expanded_weights.MANY = ALL if way == "onnxruntime" else expanded_weights.MANY
    ort = onnx_runner.import_onnxruntime()
    with Watch() as watch:
        lean = expanded_weights.expanded(ort, path)
        session, _ = onnx_runner._session(ort, path, {"CPUExecutionProvider": {}}, 1, lean)
        del session
    return watch.figures


class Watch:
    """Memory of this process, looked at every few milliseconds, and its processor time."""

    def __enter__(self) -> Watch:
        self.anonymous, self._done, self._cpu = 0, threading.Event(), time.process_time()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        end = status()
        self.figures = {
            "peak_rss": end["VmHWM"],
            "peak_anonymous": max(self.anonymous, end["RssAnon"]),
            "cpu_seconds": round(time.process_time() - self._cpu, 1),
        }

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.anonymous = max(self.anonymous, status()["RssAnon"])


def status() -> dict[str, int]:
    """Bytes of this process by the kernel's names."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def speed(form: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Three blocks opened both ways: processor seconds of a call, and whether the outputs are the same."""
    import block_slice
    import torch

    from qvggt.engines import expanded_weights, onnx_runner
    from qvggt.onnxruntime_config import session_options
    from qvggt.quant.scheme import parse_scheme

    torch.set_num_threads(1)
    path, ort = folder / f"slice-{form}.onnx", onnx_runner.import_onnxruntime()
    if not path.exists():
        model, scheme = block_slice.calibrated(parse_scheme(form), *SIZE)
        block_slice.write(model, scheme, SIZE, path)
    feed = {block_slice.INPUT: block_slice.entering(block_slice.pictures(1, *SIZE)[0])}
    sessions: dict[str, Callable[..., Any]] = {}
    kept = []
    for way, many in zip(WAYS, (ALL, 1), strict=True):
        expanded_weights.MANY = many
        options, lean = session_options(ort, 1), expanded_weights.expanded(ort, path)
        if lean is not None:
            lean.give(options)
        session = ort.InferenceSession(
            str(path) if lean is None else lean.model, options, providers=["CPUExecutionProvider"]
        )
        if lean is not None:
            lean.settle()
        kept.append(lean)
        sessions[way] = session.run
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    outputs = {}
    for turn in range(rounds + 1):
        for way in WAYS:
            begin = time.process_time()
            (outputs[way],) = sessions[way]([block_slice.OUTPUT], feed)
            if turn:
                seconds[way].append(time.process_time() - begin)
    return {
        "blocks": len(block_slice.BLOCKS),
        "cpu_s": {way: float(np.median(values)) for way, values in seconds.items()},
        "cpu_min_s": {way: min(values) for way, values in seconds.items()},
        "same_outputs": bool(np.array_equal(*outputs.values())),
        "expanded": kept[-1] is not None,
    }


def alone(work: Callable[..., Any], *args: Any) -> Any:
    """The result of a call in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def main(
    forms: Annotated[str, typer.Option(help="Formats, comma-separated.")] = "w8a8,w4a8,w4a16",
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls of the three blocks.")] = 5,
    folder: Annotated[Path, typer.Option(help="For the files; those that are there are used.")] = Path("outputs/load"),
    keep: Annotated[bool, typer.Option(help="Keep the files.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path("outputs/load_memory.json"),
) -> None:
    """Open every file both ways and write the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for form in forms.split(","):
        path = folder / f"{form}-cpu.onnx"
        if not path.exists():
            alone(write, form, path)
        size = sum(file.stat().st_size for file in folder.glob(f"{path.name}*"))
        row: dict[str, Any] = {"form": form, "file_bytes": size}
        row |= {way: alone(opened, path, way) for way in WAYS}
        if form.startswith("w4a") and form != "w4a16":  # the others are opened in one way
            row["speed"] = alone(speed, form, folder, rounds)
        print(json.dumps(row), flush=True)
        rows.append(row)
        if not keep:
            for file in folder.glob(f"*{form}*"):
                file.unlink()
    write_json(output, {"model": RANDOM_1B, "load_average": os.getloadavg()[0], "versions": versions(), "rows": rows})


if __name__ == "__main__":
    start(main)
