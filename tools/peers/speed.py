"""Speed of files of three blocks of VGGT-1B's width, ours and the peers', in both CPU runtimes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import block_slice
import numpy as np
from calibrated import folds
from cpu_candidates import SLICE_1B, Candidate, Worker, make_input, parse_spec, write_file
from reporting import sqnr_db

from peers.adapter import Request
from peers.running import file_bytes, first_line, integer_kernels, products, quantized
from qvggt.errors import QvggtError
from qvggt.progress import bar

if TYPE_CHECKING:
    from bench_peers import Entry

FRAMES = 2
Row = dict[str, Any]


def time_files(folder: Path, entries: list[Entry], pythons: dict[str, Path], size: str, rounds: int) -> Row:
    """Files that are there already are used; a peer's error stays beside its name in `failed`."""
    height, width = (int(side) for side in size.split("x"))
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {(e.tool, e.label, e.scope): e for e in entries}.values()  # those of all models are one here
    files, failed = made(folder, list(wanted), pythons, height, width)
    images = make_input(SLICE_1B, FRAMES, height, width)
    rows: list[Row] = []
    load = os.getloadavg()[0]
    for runtime in ("onnxruntime", "openvino"):
        rows += timed(runtime, files, images, (height, width), rounds)
    call = {"size": [height, width], "frames": FRAMES, "threads": 1, "rounds": rounds, "load_before": load}
    return {"call": call, "rows": rows, "failed": failed}


def made(
    folder: Path, entries: list[Entry], pythons: dict[str, Path], height: int, width: int
) -> tuple[dict[str, tuple[Entry, Path]], dict[str, str]]:
    """Name -> the entry and its file; name -> error."""
    name = f"{height}x{width}"
    float_file, arrays = folder / f"float {name}.onnx", folder / f"calibration {name}.npz"
    if not arrays.exists():
        write_file(SLICE_1B, parse_spec("fp32"), height, width, float_file)
        pictures = block_slice.calibration(FRAMES, height, width)
        np.savez(arrays, **{f"{i}": block_slice.entering(x) for i, x in enumerate(pictures)})  # type: ignore[arg-type]
    nodes, others = products(float_file)
    files, failed = {}, {}
    for entry in bar(entries, desc="files to time", unit="file"):
        label = f"{entry.tool} {entry.label} {entry.scope}"
        suffix = ".onnx" if entry.variant is None else entry.variant.suffix
        path, note = folder / f"{entry.stem} {name}{suffix}", folder / f"{entry.stem} {name}.error"
        if entry.tool == "float":
            path = float_file
        elif entry.peer is None or entry.variant is None:
            if not path.exists():
                bits, _, activation = entry.format.partition("-")
                spec = parse_spec(bits + (":static" if activation == "static" else ""))
                write_file(SLICE_1B, spec, height, width, path)
        elif not path.exists() and not note.exists():
            inside = nodes if entry.scope == "linears" else None
            model, calibration, output = (str(p.resolve()) for p in (float_file, arrays, path))
            request = Request(model, calibration, output, block_slice.INPUT, inside, others)
            said = quantized(pythons[entry.peer.name], entry.peer, entry.variant, request)
            if said.get("error"):
                note.write_text(said["error"], encoding="utf-8")
        if note.exists():
            failed[label] = note.read_text(encoding="utf-8")
        else:
            files[label] = (entry, path)
    return files, failed


def timed(
    runtime: str, files: dict[str, tuple[Entry, Path]], images: Any, size: tuple[int, int], rounds: int
) -> list[Row]:
    """One row a file this runtime opens; ratios are of the float file, the first."""
    workers: dict[str, Worker] = {}
    rows: list[Row] = []
    for label, (entry, path) in files.items():
        if runtime == "onnxruntime" and path.suffix != ".onnx":
            continue
        common: Row = {"threads": 1, "size": size, "folded": entry.tool == "ours" and folds(entry.format)}
        worker = Worker(Candidate(runtime, "fp32", SLICE_1B, spec=label, onnx=str(path), **common))
        try:
            worker.call(images, counts=False)
            workers[label] = worker
        except Exception as error:  # of either runtime, which have no common base
            rows.append(facts(entry) | {"runtime": runtime, "error": first_line(error)})
    for _ in bar(range(rounds), desc=runtime, unit="round"):
        for worker in workers.values():
            worker.call(images)
    base = None
    for label, worker in workers.items():
        entry, path = files[label]
        timing = worker.finish()
        base = base or timing
        row = facts(entry) | {"runtime": runtime, "bytes": file_bytes(path), "cpu_s": float(np.median(timing.cpu))}
        row |= {"cpu_min_s": min(timing.cpu), "wall_s": float(np.median(timing.wall))}
        # the least of each, too: on a busy machine it is the steadier figure
        row["speed_up"] = float(np.median(base.cpu) / np.median(timing.cpu))
        row["speed_up_of_least"] = min(base.cpu) / min(timing.cpu)
        row["wall_speed_up"] = float(np.median(base.wall) / np.median(timing.wall))
        if timing is not base:
            row["sqnr_db"] = round(sqnr_db(base.outputs["out"], timing.outputs["out"]), 2)
        try:
            row["kernels"] = integer_kernels(path, runtime)
        except QvggtError as error:
            row["kernels"] = str(error)
        rows.append(row)
    return rows


def facts(entry: Entry) -> Row:
    return {name: getattr(entry, name) for name in ("tool", "label", "scope", "format")}
