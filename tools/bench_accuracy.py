"""Accuracy of every recipe at every bit width, on a small model and on stressed copies of it.

    python tools/bench_accuracy.py                          # everything of small (hours; resumes row by row)
    python tools/bench_accuracy.py --model tiny --seeds 3   # another bed, and how far calibration seeds spread
    python tools/bench_accuracy.py --models plain --schemes w4a4-dynamic,w4a4-static --recipes rtn,qvggt
    python tools/bench_accuracy.py --models plain --schemes w4a4-dynamic --recipes qvggt --calibration-scenes 8
    python tools/bench_accuracy.py --statistics             # how hard each model is: tails of every linear's input

Held-out scenes only (seeds from 10000000), `--scenes` of them, 4 frames each; calibration on `--calibration-scenes`
others. Each row is appended to OUT/rows.jsonl as it is done, so that an interrupted run goes on; the table is written
as JSON and Markdown. AUC in points; the change against the float model comes with a paired-bootstrap 95 % interval.
`w4a4-dynamic-mixed` has the linears of MIXED in w4a8.
With `--seeds N` a calibration is made with the seeds 0 to N - 1 (once where nothing is drawn): figures and the ends of
intervals are means over them, `spread` the smallest and largest AUC.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from activation_statistics import measure_activations, print_statistics
from bed import BED, Bed, Family, Model
from held_out import FRAMES, Yardstick
from massive_inputs import massive_inputs_
from outlier_injection import inject_outliers_, pca_basis_
from reporting import Columns, change_text, columns, spread_text, start, write_json
from torch import Tensor

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import Recipe, find_recipe
from qvggt.files import atomic_write
from qvggt.hub.loading import load_model
from qvggt.models.network import Network
from qvggt.progress import bar
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.rotation.cost import branch_cost
from qvggt.versions import versions

SCHEMES = (
    "w8a8-dynamic,w8a8-static,w4a8-dynamic,w4a8-static,w4a4-dynamic,w4a4-static,w4a16-dynamic,"
    "fp8-static,fp8-dynamic,nvfp4,w4afp8-static"
)

MIXED = (("*.mlp.fc1", "w4a8"),)  # overrides of schemes that end in it
SPREAD = ("auc30", "auc5")  # scores whose smallest and largest over calibration seeds are kept


def model_makers(name: str, calibration: list[Tensor]) -> dict[str, Callable[[], Network]]:
    """The models to quantize, each function-preserving copies of the first."""

    def channels() -> Network:
        model = load_model(name)
        inject_outliers_(model, factor=30, fraction=0.02, seed=0)
        return model

    def pca() -> Network:
        model = load_model(name)
        pca_basis_(model, torch.stack(calibration[:16]), seed=0)
        return model

    def massive() -> Network:
        model = load_model(name)
        massive_inputs_(model, calibration[:16], factor=30, seed=0)
        return model

    return {"plain": lambda: load_model(name), "channels": channels, "pca": pca, "massive": massive}


def table(rows: list[dict[str, Any]]) -> str:
    floats = {row["model"]: row["auc30"] or math.nan for row in rows if row["recipe"] == "float"}
    spec: Columns = {name: name for name in ("model", "scheme", "recipe")}
    spec |= {"calibration": "calibration_scenes or ", "AUC@30": "auc30 {:.2f}"}
    spec |= {f"@{t}": f"auc{t} {{:.2f}}" for t in (15, 5, 3)}
    spec["change @30 (95 %)"] = lambda row: "" if row["recipe"] == "float" else change_text(row)
    spec["@30 over seeds"] = spread_text
    spec["% of FP"] = lambda row: f"{100 * row['auc30'] / floats.get(row['model'], math.nan):.1f}"
    spec["pose dB"] = lambda row: "" if row["recipe"] == "float" else f"{row['sqnr_db']['pose_enc']:.1f}"
    return columns(rows, spec | {"depth abs-rel": "abs_rel {:.4f}"}, aligned=False)


def main(
    model: Model = BED,
    family: Family = None,
    models: Annotated[
        str, typer.Option(help="plain, channels (outlier channels x30), pca (rotated basis), massive (fc2 inputs x30).")
    ] = "plain,channels,pca,massive",
    schemes: Annotated[str, typer.Option(help="Bits and activation mode, e.g. w4a4-static.")] = SCHEMES,
    recipes: Annotated[str, typer.Option()] = "rtn,smoothquant,quarot,quantvggt,qvggt",
    ablate: Annotated[bool, typer.Option(help="Also change single steps of qvggt.")] = False,
    scenes: Annotated[int, typer.Option(min=2)] = 256,
    calibration_scenes: Annotated[int, typer.Option(min=1)] = 32,
    seeds: Annotated[int, typer.Option(min=1, help="Calibrations of a row, with the seeds from 0.")] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Print activation statistics of the models, write them, and stop.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="For scenes and results. [outputs/bench_accuracy/MODEL]")] = None,
) -> None:
    """Run what is not in OUT/rows.jsonl yet, print and write the table."""
    torch.set_num_threads(threads)
    bed = Bed.of(model, family)
    out, weights = out or bed.folder("bench_accuracy"), bed.weights
    split = bed.held_out(out / "held_out", scenes)
    calibration = bed.calibration(out / f"calibration_{calibration_scenes}", calibration_scenes)
    makers = model_makers(str(bed.path), calibration)
    if statistics:
        tables = {name: measure_activations(makers[name](), calibration) for name in models.split(",")}
        print_statistics(tables)
        rows_of = {name: [asdict(row) for row in table] for name, table in tables.items()}
        write_json(out / "statistics.json", {"model": model, "versions": versions(), "rows": rows_of})
        return
    path = out / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {r["key"] for r in rows}
    chosen = [name for name in recipes.split(",") if name]
    pairs = [(m, s) for m in models.split(",") for s in schemes.split(",")]
    plan = [(m, s, find_recipe(name)) for m, s in pairs for name in chosen]
    plan += [(m, s, recipe) for m, s in pairs for recipe in ablations()] if ablate else []
    current, yardstick = "", None
    drawn = [(*row, seed) for row in plan for seed in range(seeds if draws(row[2]) else 1)]
    for kind, scheme_name, recipe, seed in bar(drawn, desc="rows", unit="row"):
        job = json.dumps(recipe.to_dict(), sort_keys=True)
        key = f"{weights} {scenes} {calibration_scenes} {kind} {scheme_name} {job}" + (f" seed {seed}" if seed else "")
        if key in done:
            continue
        if kind != current or yardstick is None:
            current, network = kind, makers[kind]()
            yardstick = Yardstick(network, split)
            if f"{weights} {scenes} {kind} float" not in done:
                row = yardstick.row(network)
                rows.append(append(path, f"{weights} {scenes} {kind} float", kind, "fp32", "float", row))
        network = makers[kind]()
        began = time.perf_counter()
        calibrate_(network, scheme_of(scheme_name), recipe, calibration, seed, progress=False)
        seconds = time.perf_counter() - began
        row = yardstick.row(network) | {"calibration_seconds": round(seconds, 1)}
        row |= {"calibration_scenes": calibration_scenes, "seed": seed, "threads": threads}
        if cost := branch_cost(network):
            row["branches"] = asdict(cost)
        rows.append(append(path, key, kind, scheme_name, recipe.name, row))
        print(f"{kind} {scheme_name} {recipe.name}: AUC@30 {row['auc30']:.2f} ({row['auc30_change']:+.2f})", flush=True)
    rows = over_seeds([r for r in rows if r["key"].startswith(f"{weights} {scenes} ")], seeds)
    text = table(rows)
    print(text)
    call = {"model": model, "weights_sha256": weights, "scenes": scenes, "frames": FRAMES, "size": bed.size}
    write_json(out / "accuracy.json", {"call": call, "versions": versions(), "rows": rows}, told=False)
    with atomic_write(out / "accuracy.md") as temporary:
        temporary.write_text(text)


def draws(recipe: Recipe) -> bool:
    """Whether a calibration depends on its seed: signs of rotations, the order of learning."""
    return recipe.epochs > 0 or recipe.value_rotation or (recipe.rotation, recipe.online) != ("none", "none")


def over_seeds(rows: list[dict[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """A row for each of seed 0, with the means over the first `seeds`, and `spread`: score -> smallest and largest."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("seed", 0) < seeds:
            groups.setdefault(row["key"].partition(" seed ")[0], []).append(row)
    return [mean_row(group) if len(group) > 1 else group[0] for group in groups.values()]


def mean_row(group: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of those of several seeds."""

    def mean(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: mean([value[name] for value in values]) for name in values[0]}
        if isinstance(values[0], list) and isinstance(values[0][0], float):
            return [mean(list(parts)) for parts in zip(*values, strict=True)]
        return values[0] if isinstance(values[0], str | int | list) else round(sum(values) / len(values), 4)

    row = {name: mean([row[name] for row in group]) for name in group[0] if name != "seed"}
    spread = {name: [min(r[name] for r in group), max(r[name] for r in group)] for name in SPREAD}
    return row | {"seeds": len(group), "spread": spread}


def scheme_of(name: str) -> Scheme:
    """Of bits and activation mode, e.g. w4a4-static; w4a4-dynamic-mixed has other bits where MIXED says so."""
    plain = name.removesuffix("-mixed")
    bits, _, activation = plain.partition("-")
    scheme = parse_scheme(bits, activation or "dynamic")
    return scheme if plain == name else replace(scheme, overrides=MIXED)


def ablations() -> list[Recipe]:
    """Ours with one step changed at a time."""
    ours = find_recipe("qvggt")
    return [
        ours.replace(name="ours without branches", branch=0),
        *(ours.replace(name=f"ours with branches of {rank}", branch=rank) for rank in (8, 16)),
        ours.replace(name="ours without centers", center="none"),
        ours.replace(name="ours without residual rotation", rotation="none"),
        ours.replace(name="ours without fc2 rotation", online="none"),
        ours.replace(name="ours without fitted grids", fit_grids=False),
        ours.replace(name="ours with nearest rounding", rounding="rtn"),
        ours.replace(name="ours without clip search", search_clips=False),
        ours.replace(name="ours, all tokens alike", special_weight=0.0),
        ours.replace(name="ours on float inputs", propagation="float"),
        ours.replace(name="ours with smoothing", smooth=True),
        ours.replace(name="ours with rotated values", value_rotation=True),
        ours.replace(name="ours with learning", epochs=8),
        ours.replace(name="ours, adapted", adapt=120),
    ]


def append(path: Path, key: str, model: str, scheme: str, recipe: str, row: dict[str, Any]) -> dict[str, Any]:
    line = json.dumps({"key": key, "model": model, "scheme": scheme, "recipe": recipe, **row})
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
    return json.loads(line)


if __name__ == "__main__":
    start(main)
