"""How many frames of a sequence a calibration should see: a model calibrated on few and on many, judged at both.

    python tools/bench_calibration_frames.py        # docs/results/calibration_frames.json; resumes
    python tools/bench_calibration_frames.py --model tiny -o tiny.json

As tools/bench_accuracy.py, with scenes of 10 frames. A row is a calibration (scheme, scenes, frames of a scene) judged
on the first 4 and on all 10 frames of the same held-out scenes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from bed import BED, Bed, Family, Model
from bench_accuracy import append, scheme_of
from held_out import CALIBRATION_SEED, Yardstick, images_of, scenes_in
from reporting import columns, start, write_json
from results_tables import CALIBRATION_FRAMES

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.versions import versions

FRAMES = 10
JUDGED = (4, FRAMES)
ROOT = Path(__file__).resolve().parent.parent


def main(
    model: Model = BED,
    family: Family = None,
    schemes: Annotated[str, typer.Option()] = "w4a4-dynamic",
    calibrations: Annotated[str, typer.Option(help="Scenes x frames of each.")] = "12x4,5x10,12x10",
    scenes: Annotated[int, typer.Option(min=2)] = 128,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    out: Annotated[
        Path | None, typer.Option(help="For scenes and rows. [outputs/bench_calibration_frames/MODEL]")
    ] = None,
    report: Annotated[Path, typer.Option("-o", help="JSON file.")] = ROOT / "docs/results/calibration_frames.json",
) -> None:
    """Run what is not in OUT/rows.jsonl yet, print and write the table."""
    torch.set_num_threads(threads)
    bed = Bed.of(model, family, FRAMES)
    out = out or bed.folder("bench_calibration_frames")
    split = bed.held_out(out / "held_out", scenes)
    sizes = [tuple(map(int, text.split("x"))) for text in calibrations.split(",")]
    pool = scenes_in(out / "calibration", CALIBRATION_SEED, max(count for count, _ in sizes), bed.scenes)
    path = out / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    float_model = bed.load()
    yardsticks = [Yardstick(float_model, split, frames) for frames in JUDGED]
    for name in schemes.split(","):
        scheme = scheme_of(name)
        recipe = find_recipe("qvggt")
        for count, frames in sizes:
            key = f"{bed.weights} {scenes} {name} {count} {frames} {json.dumps(recipe.to_dict(), sort_keys=True)}"
            if any(row["key"] == key for row in rows):
                continue
            network = bed.load()
            calibrate_(network, scheme, recipe, [images_of(pool, i, frames) for i in range(count)], progress=False)
            judged = {str(stick.frames): stick.row(network) for stick in yardsticks}
            row = {"scenes": count, "frames": frames, "judged": judged}
            rows.append(append(path, key, "plain", name, recipe.name, row))
            print(f"{name} {count} x {frames}: {[round(j['auc30'], 2) for j in judged.values()]}", flush=True)
    rows = [row for row in rows if row["key"].startswith(f"{bed.weights} {scenes} ")]
    print(columns(rows, CALIBRATION_FRAMES))
    floats = {str(stick.frames): {name: sum(v) / len(v) for name, v in stick.scores.items()} for stick in yardsticks}
    call = {"model": model, "weights_sha256": bed.weights, "threads": threads, "scenes": scenes}
    write_json(report, {**call, "float": floats, "versions": versions(), "rows": rows})


if __name__ == "__main__":
    start(main)
