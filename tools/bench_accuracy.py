"""Accuracy of every recipe at every bit width, on the tiny model and on stressed copies of it.

    python tools/bench_accuracy.py                          # everything (an hour or more on two cores; resumes)
    python tools/bench_accuracy.py --models plain --schemes w4a4-dynamic,w4a4-static --recipes rtn,qvggt
    python tools/bench_accuracy.py --models plain --schemes w4a4-dynamic --recipes qvggt --calibration-scenes 8

Held-out scenes only (seeds from 10000000), `--scenes` of them, 4 frames each; calibration on `--calibration-scenes`
others. Each row is appended to OUT/rows.jsonl as it is done, so that an interrupted run goes on; the table is written
as JSON and Markdown. AUC in points; the change against the float model comes with a paired-bootstrap 95 % interval.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import Recipe, find_recipe
from qvggt.cli.versions import versions
from qvggt.data.synthetic.dataset import SceneSplit, load_split, render_split
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.eval.bootstrap import paired_interval
from qvggt.eval.depth import depth_errors
from qvggt.eval.pose import pairwise_errors, pose_auc
from qvggt.files import atomic_write, file_sha256
from qvggt.geometry import decode_pose
from qvggt.hub.loading import load_model
from qvggt.hub.names import find_weights
from qvggt.models.network import Network
from qvggt.progress import bar
from qvggt.quant import parse_scheme

HELD_OUT_SEED, CALIBRATION_SEED = 10_000_000, 50_000_000
FRAMES, BATCH = 4, 16
SCHEMES = "w8a8-dynamic,w8a8-static,w4a8-dynamic,w4a8-static,w4a4-dynamic,w4a4-static,w4a16-dynamic"
Predictions = dict[str, Tensor]


def images_of(split: SceneSplit, index: int) -> Tensor:
    """First FRAMES frames of a scene, [S, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(split.images[index, :FRAMES])).permute(0, 3, 1, 2).float() / 255


def predict(model: Network, split: SceneSplit, scenes: int) -> Predictions:
    """Outputs of all scenes, [scenes, S, ...]."""
    parts: list[Predictions] = []
    with torch.no_grad():
        for start in range(0, scenes, BATCH):
            batch = torch.stack([images_of(split, i) for i in range(start, min(start + BATCH, scenes))])
            parts.append(model(batch))
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def per_scene(outputs: Predictions, split: SceneSplit) -> dict[str, list[float]]:
    """AUC (points) at every threshold and depth abs-rel of each scene."""
    height, width = split.images.shape[2:4]
    extrinsics, _ = decode_pose(outputs["pose_enc"].double(), height, width)
    scores: dict[str, list[float]] = {key: [] for key in ("auc30", "auc15", "auc5", "auc3", "abs_rel")}
    for index, predicted in enumerate(extrinsics):
        truth = split.extrinsics[index, :FRAMES].astype(np.float64)
        auc = pose_auc([pairwise_errors(predicted, truth)])
        for threshold, value in auc.items():
            scores[f"auc{threshold}"].append(100 * value)
        depth = outputs["depth"][index, :, ::2, ::2, 0].double().numpy()
        scores["abs_rel"].append(depth_errors(depth, split.depth[index, :FRAMES].astype(np.float64)).abs_rel)
    return scores


def sqnr_db(reference: Predictions, other: Predictions) -> dict[str, float]:
    values = {}
    for name, truth in reference.items():
        noise = float((truth.double() - other[name].double()).square().sum())
        values[name] = round(10 * np.log10(float(truth.double().square().sum()) / max(noise, 1e-300)), 2)
    return values


def model_makers(name: str, calibration: list[Tensor]) -> dict[str, Callable[[], Network]]:
    """The models to quantize, each function-preserving copies of the first."""

    def channels() -> Network:
        from qvggt.calib.stress import inject_channels_

        model = load_model(name)
        inject_channels_(model, factor=30, fraction=0.02, seed=0)
        return model

    def pca() -> Network:
        from qvggt.calib.stress import pca_basis_

        model = load_model(name)
        pca_basis_(model, torch.stack(calibration[:16]), seed=0)
        return model

    return {"plain": lambda: load_model(name), "channels": channels, "pca": pca}


def evaluate_row(
    model: Network, reference: Predictions, base: dict[str, list[float]], split: SceneSplit, scenes: int
) -> dict[str, Any]:
    outputs = predict(model, split, scenes)
    scores = per_scene(outputs, split)
    row: dict[str, Any] = {key: round(float(np.mean(v)), 4) for key, v in scores.items()}
    for key in ("auc30", "auc5"):
        low, high = paired_interval(base[key], scores[key])
        row[f"{key}_change"] = round(float(np.mean(scores[key]) - np.mean(base[key])), 3)
        row[f"{key}_interval"] = [round(low, 3), round(high, 3)]
    row["sqnr_db"] = sqnr_db(reference, outputs)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    header = ["model", "scheme", "recipe", "calibration", "AUC@30", "@15", "@5", "@3", "change @30 (95 %)", "% of FP"]
    header += ["pose dB", "depth abs-rel"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    floats = {r["model"]: r for r in rows if r["recipe"] == "float"}
    for row in rows:
        low, high = row["auc30_interval"]
        cells = [row["model"], row["scheme"], row["recipe"], str(row.get("calibration_scenes", ""))]
        cells += [f"{row[f'auc{t}']:.2f}" for t in (30, 15, 5, 3)]
        change = "" if row["recipe"] == "float" else f"{row['auc30_change']:+.2f} [{low:+.2f}, {high:+.2f}]"
        share = 100 * row["auc30"] / floats[row["model"]]["auc30"] if row["model"] in floats else float("nan")
        pose = "" if row["recipe"] == "float" else f"{row['sqnr_db']['pose_enc']:.1f}"
        lines.append("| " + " | ".join([*cells, change, f"{share:.1f}", pose, f"{row['abs_rel']:.4f}"]) + " |")
    return "\n".join(lines) + "\n"


def main(
    model: Annotated[str, typer.Option(help="Float checkpoint.")] = "tiny",
    models: Annotated[str, typer.Option(help="plain, channels (outlier channels x30), pca (rotated basis).")] = (
        "plain,channels,pca"
    ),
    schemes: Annotated[str, typer.Option(help="Bits and activation mode, e.g. w4a4-static.")] = SCHEMES,
    recipes: Annotated[str, typer.Option()] = "rtn,smoothquant,quarot,quantvggt,qvggt",
    ablate: Annotated[bool, typer.Option(help="Also change single steps of qvggt.")] = False,
    scenes: Annotated[int, typer.Option(min=2)] = 256,
    calibration_scenes: Annotated[int, typer.Option(min=1)] = 32,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    out: Annotated[Path, typer.Option(help="Folder for scenes and results.")] = Path("outputs/bench_accuracy"),
) -> None:
    """Run what is not in OUT/rows.jsonl yet, print and write the table."""
    torch.set_num_threads(threads)
    folder = out / f"calibration_{calibration_scenes}"
    config = SceneConfig(height=70, width=70, family="random", frames=8)
    render_split(config, range(HELD_OUT_SEED, HELD_OUT_SEED + scenes), out / "held_out", workers=2)
    render_split(config, range(CALIBRATION_SEED, CALIBRATION_SEED + calibration_scenes), folder, workers=2)
    split, pool = load_split(out / "held_out"), load_split(folder)
    calibration = [images_of(pool, i) for i in range(calibration_scenes)]
    weights = file_sha256(find_weights(model))[:16]
    path = out / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {r["key"] for r in rows}
    plan = [
        (m, s, find_recipe(r)) for m in models.split(",") for s in schemes.split(",") for r in recipes.split(",") if r
    ]
    if ablate:
        plan += [(m, s, r) for m in models.split(",") for s in schemes.split(",") for r in ablations()]
    makers = model_makers(model, calibration)
    current, reference, base = "", {}, {}
    for kind, scheme_name, recipe in bar(plan, desc="rows", unit="row"):
        job = json.dumps(recipe.to_dict(), sort_keys=True)
        key = f"{weights} {scenes} {calibration_scenes} {kind} {scheme_name} {job}"
        if key in done:
            continue
        if kind != current:
            current, network = kind, makers[kind]()
            reference = predict(network, split, scenes)
            base = per_scene(reference, split)
            if f"{weights} {scenes} {kind} float" not in done:
                row = evaluate_row(network, reference, base, split, scenes)
                rows.append(append(path, f"{weights} {scenes} {kind} float", kind, "fp32", "float", row))
        network = makers[kind]()
        bits, _, activation = scheme_name.partition("-")
        start = time.perf_counter()
        calibrate_(network, parse_scheme(bits, activation or "dynamic"), recipe, calibration, progress=False)
        seconds = time.perf_counter() - start
        row = evaluate_row(network, reference, base, split, scenes) | {"calibration_seconds": round(seconds, 1)}
        row["calibration_scenes"] = calibration_scenes
        rows.append(append(path, key, kind, scheme_name, recipe.name, row))
        print(f"{kind} {scheme_name} {recipe.name}: AUC@30 {row['auc30']:.2f} ({row['auc30_change']:+.2f})", flush=True)
    rows = [r for r in rows if r["key"].startswith(f"{weights} {scenes} ")]
    text = table(rows)
    print(text)
    with atomic_write(out / "accuracy.json") as temporary:
        call = {"model": model, "weights_sha256": weights, "scenes": scenes, "frames": FRAMES}
        temporary.write_text(json.dumps({"call": call, "versions": versions(), "rows": rows}, indent=1) + "\n")
    with atomic_write(out / "accuracy.md") as temporary:
        temporary.write_text(text)


def ablations() -> list[Recipe]:
    """Ours with one step changed at a time."""
    ours = find_recipe("qvggt")
    return [
        ours.replace(name="ours without centers", center=False),
        ours.replace(name="ours without residual rotation", rotation="none"),
        ours.replace(name="ours without value rotation", value_rotation=False),
        ours.replace(name="ours with Hadamard values", value_basis="hadamard"),
        ours.replace(name="ours without fc2 rotation", online="none"),
        ours.replace(name="ours without smoothing", smooth=False),
        ours.replace(name="ours without clip search", search_clips=False),
        ours.replace(name="ours without learning", learn=False),
        ours.replace(name="ours with nearest rounding", rounding="rtn"),
        ours.replace(name="ours on float inputs", propagation="float"),
        ours.replace(name="ours, all tokens alike", special_weight=0.0),
    ]


def append(path: Path, key: str, model: str, scheme: str, recipe: str, row: dict[str, Any]) -> dict[str, Any]:
    full = {"key": key, "model": model, "scheme": scheme, "recipe": recipe, **row}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(full) + "\n")
    return full


if __name__ == "__main__":
    typer.run(main)
