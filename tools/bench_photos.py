"""How far quantized outputs are from float ones on photographs, beside the same on generated scenes.

    python tools/photos.py                                         # fetches the photographs, once
    python tools/bench_photos.py -o docs/results/photos.json       # resumes
    python tools/bench_photos.py --model tiny -o outputs/photos_tiny.json

The networks are trained on generated scenes, and too small to find cameras in photographs: this is the SQNR of what
they say against what the float network says, whatever that is worth. Each scheme is calibrated on generated scenes, and
apart on photographs: on videos where stills are judged, on stills (sequences of two images) where videos are. Images
are cut to their middle square and scaled to the model's size. `cameras_deg`: by how much the second camera of a
rectified pair, which is known, is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from bed import BED, Bed, Family, Model
from bench_accuracy import scheme_of
from held_out import images_of
from photos import COLLECTIONS, FOLDER, beside
from reporting import sqnr_db, start, write_json
from torch import Tensor

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.eval.pose import pairwise_errors
from qvggt.geometry import decode_pose
from qvggt.journal import Journal
from qvggt.models.network import Network
from qvggt.versions import versions

SCHEMES = "w8a8-dynamic,w4a8-dynamic,w4a16-dynamic,w4a4-dynamic,w4a4-static"
GENERATED, PHOTOGRAPHS = "generated", "photographs"

Sequences = dict[str, list[Tensor]]  # collection -> its sequences, [S, 3, H, W] each
Outputs = dict[str, list[dict[str, Tensor]]]


@torch.no_grad()
def outputs_of(network: Network, sequences: Sequences) -> Outputs:
    return {name: [network(images) for images in found] for name, found in sequences.items()}


def noise(truth: Outputs, found: Outputs) -> dict[str, dict[str, float]]:
    """Collection -> output -> SQNR in dB over all its sequences."""

    def flat(outputs: list[dict[str, Tensor]], name: str) -> Tensor:
        return torch.cat([one[name].flatten() for one in outputs])

    return {
        kind: {name: round(sqnr_db(flat(outputs, name), flat(found[kind], name)), 2) for name in outputs[0]}
        for kind, outputs in truth.items()
        if kind in found
    }


def cameras(found: Outputs, size: int) -> list[float]:
    """Degrees by which the camera of each rectified pair is off, the larger of rotation and direction."""
    chosen = [found[c.name][i] for c in COLLECTIONS if c.name in found for i in c.rectified]
    posed = [decode_pose(one["pose_enc"].double(), size, size)[0] for one in chosen]
    return [round(float(pairwise_errors(pose.reshape(2, 3, 4), beside()).worst_deg[0]), 2) for pose in posed]


def halves(photographs: Sequences) -> tuple[Sequences, Sequences]:
    """Stills and videos: those of two images, and those of more."""
    stills = {name: found for name, found in photographs.items() if len(found[0]) == 2}
    return stills, {name: found for name, found in photographs.items() if name not in stills}


def spread_over(sequences: Sequences, count: int) -> list[Tensor]:
    """`count` of all, evenly, or all."""
    every = [images for found in sequences.values() for images in found]
    return [every[i] for i in np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int))]


class Judge:
    """The float network's outputs on all sequences, and how far others are from them."""

    def __init__(self, bed: Bed, sequences: Sequences) -> None:
        self.bed, self.sequences = bed, sequences
        self.truth = outputs_of(bed.load(), sequences)

    def row(self, scheme: str, calibration: Sequence[Tensor], judged: Sequence[str]) -> dict[str, Any]:
        """Calibrated on these images; `sqnr_db` and `cameras` of the collections named."""
        network, kind = self.bed.load(), scheme_of(scheme)
        calibrate_(network, kind, find_recipe("qvggt"), calibration, progress=False)
        found = outputs_of(network, {name: self.sequences[name] for name in judged})
        return {"sqnr_db": noise(self.truth, found), "cameras_deg": cameras(found, self.bed.size)}


def bench(
    model: Model = BED,
    family: Family = None,
    schemes: Annotated[str, typer.Option(help="Bits and activation mode, comma-separated.")] = SCHEMES,
    scenes: Annotated[int, typer.Option(min=2, help="Generated ones to judge on.")] = 32,
    calibration_sequences: Annotated[int, typer.Option(min=1, help="Of a calibration, as far as there are.")] = 16,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    photographs: Annotated[Path, typer.Option(help="What tools/photos.py fetched.")] = FOLDER,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path("outputs/bench_photos.json"),
) -> None:
    """Print and save the table."""
    torch.set_num_threads(threads)
    bed = Bed.of(model, family)
    stills, videos = halves({c.name: c.sequences(bed.size, photographs) for c in COLLECTIONS})
    folder = bed.folder("bench_photos")
    split = bed.held_out(folder / "held_out", scenes)
    drawn = bed.calibration(folder / f"calibration_{calibration_sequences}", calibration_sequences)
    judge = Judge(bed, {GENERATED: [images_of(split, i) for i in range(scenes)], **stills, **videos})
    works = {  # calibrated on -> images, collections to judge
        GENERATED: [(drawn, [*judge.sequences])],
        PHOTOGRAPHS: [
            (spread_over(videos, calibration_sequences), [*stills]),
            (spread_over(stills, calibration_sequences), [*videos]),
        ],
    }
    call = {"model": model, "weights_sha256": bed.weights, "size": bed.size, "scenes": scenes, "threads": threads}
    call |= {"calibration_sequences": calibration_sequences}
    journal = Journal(output.with_name(f".{output.name}.rows.jsonl"), {**call, "versions": versions()}, "bench")
    rows = []
    for scheme in schemes.split(","):
        for calibrated, halves_of in works.items():
            row: dict[str, Any] = {"scheme": scheme, "calibrated": calibrated, "sqnr_db": {}, "cameras_deg": []}
            for images, judged in halves_of:
                key = f"{scheme} {calibrated} {' '.join(judged)}"
                if key not in journal.values:
                    journal.add(key, judge.row(scheme, images, judged))
                row["sqnr_db"] |= journal.values[key]["sqnr_db"]
                row["cameras_deg"] += journal.values[key]["cameras_deg"]
            rows.append(row)
            print(f"{scheme} on {calibrated}: {row['sqnr_db']} {row['cameras_deg']}", flush=True)
    facts = {
        "sequences": {c.name: len(c.paths) for c in COLLECTIONS},
        "float_cameras_deg": cameras(judge.truth, bed.size),
    }
    write_json(output, {"call": call | facts, "versions": versions(), "rows": rows})
    journal.remove()


if __name__ == "__main__":
    start(bench)
