"""Accuracy and bytes for every choice of parts.

    python tools/bench_parts.py -o docs/results/parts.json      # 64 held-out scenes
    python tools/bench_parts.py --model tiny

Held-out scenes (seeds from 10000000), 4 frames each; calibration on 32 other scenes. `bytes` is the ONNX file of target
tensorrt (INT4 weights at 4 bits, INT8 activations), `bytes_cpu` that of target cpu. Each row is kept in OUT.rows.jsonl
as it is done, so that an interrupted run goes on; choices with the same blocks share their calibration, which does not
see the heads.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bed import BED, Bed, Family, Model
from held_out import FRAMES, Yardstick
from reporting import Columns, change_text, columns, start, write_json

from qvggt.calib.block_journal import BlockJournal
from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.journal import Journal
from qvggt.models.network import Network
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.target import Target
from qvggt.versions import versions

CALIBRATION_SCENES = 32
CHOICES = (
    ("aggregator",),
    ("dino", "aggregator"),
    ("dino", "aggregator", "camera"),
    ("dino", "aggregator", "dpt"),
    ("dino", "aggregator", "camera", "dpt"),
    ("dino", "aggregator", "camera", "dpt", "rest"),
)
MIXED = (("camera_head.trunk.*", "w8a8"), ("depth_head.*", "w8a8"), ("point_head.*", "w8a8"))


def schemes() -> list[Scheme]:
    """Every choice at w8a8 and w4a4, and w4a4 with the heads at 8 bits."""
    plain = [parse_scheme(bits, "dynamic", parts) for bits in ("w8a8", "w4a4") for parts in CHOICES]
    return [*plain, *(Scheme(bits, "dynamic", CHOICES[-1], MIXED) for bits in ("w4a4", "w4a8"))]


def file_bytes(model: Network, scheme: Scheme, target: Target, size: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return export_onnx(model, scheme, ExportConfig(size, size, target=target), Path(folder) / "m.onnx").bytes


def table(rows: list[dict[str, Any]]) -> str:
    spec: Columns = {"bits": "bits", "parts": "parts", "AUC@30": "auc30 {:.2f}", "@5": "auc5 {:.2f}"}
    spec["change @30 (95 %)"] = lambda row: "" if row["bits"] == "fp32" else change_text(row)
    spec |= {"depth abs-rel": "abs_rel {:.4f}", "pose dB": "sqnr_db.pose_enc {:.1f} or "}
    spec |= {"depth dB": "sqnr_db.depth {:.1f} or ", "MB": "bytes/1e6 {:.2f}", "MB cpu": "bytes_cpu/1e6 {:.2f}"}
    return columns(rows, spec, aligned=False)


def bench(
    model: Model = BED,
    family: Family = None,
    recipe: Annotated[str, typer.Option(help="Recipe of the blocks.")] = "qvggt",
    epochs: Annotated[int | None, typer.Option(min=1, help="Learning passes. [the recipe's]")] = None,
    scenes: Annotated[int, typer.Option(min=2)] = 64,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    data: Annotated[Path | None, typer.Option(help="Folder for the scenes. [outputs/bench_parts/MODEL]")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path("outputs/bench_parts.json"),
) -> None:
    """Print and save the table."""
    torch.set_num_threads(threads)
    bed = Bed.of(model, family)
    data = data or bed.folder("bench_parts")
    split = bed.held_out(data / "held_out", scenes, workers=1)
    calibration = bed.calibration(data / "calibration", CALIBRATION_SCENES, workers=1)
    call = {"model": model, "weights_sha256": bed.weights, "scenes": scenes, "frames": FRAMES, "threads": threads}
    steps = find_recipe(recipe) if epochs is None else find_recipe(recipe).replace(epochs=epochs)
    call |= {"calibration_scenes": CALIBRATION_SCENES, "recipe": steps.to_dict()}
    journal = Journal(output.with_name(f".{output.name}.rows.jsonl"), {**call, "versions": versions()}, "bench")
    yardstick = Yardstick(bed.load(), split)
    for scheme in [Scheme("fp32"), *schemes()]:
        key = scheme.to_json()
        if key in journal.values:
            continue
        network, began = bed.load(), time.perf_counter()
        if scheme.bits != "fp32":
            blocks = [part for part in scheme.parts if part in ("dino", "aggregator")]
            store = BlockJournal(data / f"{scheme.bits}-{'-'.join(blocks)}", {**call, "versions": versions()})
            calibrate_(network, scheme, steps, calibration, journal=store, progress=False)
        seconds = time.perf_counter() - began
        row: dict[str, Any] = {"bits": scheme.bits, "parts": "+".join(scheme.parts), "label": scheme.label}
        row["parts"] += " (heads w8a8)" if scheme.overrides else ""
        row |= yardstick.row(network, ("auc30",))
        if scheme.bits == "fp32":
            row |= {"parts": "", "sqnr_db": {}}
        row["bytes"] = file_bytes(network, scheme, Target.TENSORRT, bed.size)
        row["bytes_cpu"] = file_bytes(network, scheme, Target.CPU, bed.size)
        row["calibration_seconds"] = round(seconds, 1)
        journal.add(key, row)
        print(table([row]).splitlines()[-1], flush=True)
    rows = [journal.values[scheme.to_json()] for scheme in [Scheme("fp32"), *schemes()]]
    print(table(rows))
    write_json(output, {"call": call, "versions": versions(), "rows": rows})
    journal.remove()


if __name__ == "__main__":
    start(bench)
