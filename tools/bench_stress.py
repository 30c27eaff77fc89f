"""Tails of every linear's input, and round-to-nearest accuracy, before and after exact stress transformations.

    python tools/bench_stress.py                         # the tiny model, 128 held-out scenes
    python tools/bench_stress.py --model my.safetensors --scenes 256 --factor 100

Variants of one model, all computing the same function in float: `plain`; `inject`, outlier channels times --factor;
`pca`, residual streams in their PCA basis (see qvggt.calib.stress). The numbers of the last two are synthetic stress.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from qvggt.calib.rtn import quantize_rtn_
from qvggt.calib.stress import inject_channels_, pca_basis_
from qvggt.calib.tails import TailTable, measure_tails
from qvggt.cli.common import fail
from qvggt.cli.versions import versions
from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.errors import QvggtError
from qvggt.eval.pose import pairwise_errors, pose_auc
from qvggt.files import atomic_write
from qvggt.geometry import decode_pose
from qvggt.hub.loading import load_model
from qvggt.models.network import Network
from qvggt.progress import bar
from qvggt.quant.scheme import parse_scheme

VARIANTS = ("plain", "inject", "pca")
SETTINGS = tuple((bits, mode) for bits in ("w8a8", "w4a4") for mode in ("dynamic", "static"))
HELD_OUT, CALIBRATION = 10_000_000, 0  # first seeds: the held-out ones meet neither training nor calibration
BATCH = 16
FIGURES = {
    "kurtosis": "kurtosis",
    "max_over_median": "max/med",
    "channel_ratio": "ch max/med",
    "token_ratio": "tok max/med",
    "special_over_patch": "special/patch",
    "kurtosis_max": "kurt_max",
    "max_over_median_max": "mm_max",
}


@dataclass(frozen=True)
class View:
    """A sequence: images [S, 3, H, W] in [0, 1]; extrinsics float64 [S, 3, 4], camera from world, OpenCV axes."""

    images: Tensor
    extrinsics: NDArray[np.float64]


def views(first: int, count: int, frames: int, size: int) -> list[View]:
    """The first `frames` frames of the scenes with seeds first, first + 1, ..."""
    config, out = SceneConfig(height=size, width=size, frames=max(8, frames)), []
    for seed in bar(range(first, first + count), desc="render", unit="scene"):
        drawn = render(sample_scene(config, seed), config)
        images = torch.from_numpy(drawn.images[:frames]).permute(0, 3, 1, 2).float() / 255
        out.append(View(images, drawn.extrinsics[:frames]))
    return out


def stressed(
    model: Network, variant: str, calibration: Sequence[View], factor: float, fraction: float, seed: int
) -> Network:
    """A stressed copy."""
    out = deepcopy(model)
    if variant == "inject":
        inject_channels_(out, factor, fraction, seed)
    elif variant == "pca":
        pca_basis_(out, (view.images for view in calibration), seed)
    return out


@torch.no_grad()
def score(model: Network, held_out: Sequence[View], desc: str) -> dict[str, float]:
    """AUC@30/15/5/3 over all pairs of views, percent."""
    errors = []
    for start in bar(range(0, len(held_out), BATCH), desc=desc, unit="batch"):
        part = held_out[start : start + BATCH]
        images = torch.stack([view.images for view in part])
        extrinsics, _ = decode_pose(model(images)["pose_enc"].double(), *images.shape[-2:])
        errors += [pairwise_errors(e, view.extrinsics) for e, view in zip(extrinsics, part, strict=True)]
    return {f"auc{t}": round(100 * value, 2) for t, value in pose_auc(errors).items()}


@torch.no_grad()
def deviation(model: Network, reference: Network, images: Tensor) -> float:
    """Largest difference of any output, relative to the output's largest value."""
    got, expected = model(images), reference(images)
    return max(float((got[k] - v).abs().max() / v.abs().max()) for k, v in expected.items())


def print_tails(tables: dict[str, TailTable]) -> None:
    print("\nKurtosis (3 = Gaussian) and max|x| / median|x| at the input of every linear:")
    print("| linear |" + "".join(f" {name} |" for name in tables) + "\n|---|" + "---|" * len(tables))
    for rows in zip(*(table.rows for table in tables.values()), strict=True):
        print(f"| {rows[0].path} |" + "".join(f" {r.kurtosis:.1f}, {r.max_over_median:.1f} |" for r in rows))
    print("\nMedians over the layers of a kind; *_max: over them the largest:")
    print("| model | linear |" + "".join(f" {head} |" for head in FIGURES.values()))
    print("|---|---|" + "---|" * len(FIGURES))
    for name, table in tables.items():
        for kind, figures in table.summary().items():
            cells = "".join(f" {figures[key]:.2f} |" if key in figures else " - |" for key in FIGURES)
            print(f"| {name} | {kind} |{cells}")


def print_scores(rows: Sequence[dict[str, Any]]) -> None:
    print("\nRound to nearest:")
    print("| model | setting | AUC@30 | @15 | @5 | @3 |\n|---|---|---|---|---|---|")
    for row in rows:
        cells = "".join(f" {row[f'auc{t}']:.1f} |" for t in (30, 15, 5, 3))
        print(f"| {row['variant']} | {row['setting']} |{cells}")


def bench(
    model: Annotated[str, typer.Option(help="tiny, or any float checkpoint.")] = "tiny",
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes.")] = 128,
    calibration: Annotated[int, typer.Option(min=1, help="Scenes for ranges, PCA and tails.")] = 24,
    frames: Annotated[int, typer.Option(min=2, help="Frames of each scene.")] = 4,
    variants: Annotated[str, typer.Option(help=f"Subset of {','.join(VARIANTS)}.")] = ",".join(VARIANTS),
    factor: Annotated[float, typer.Option(help="Of the injected channels.")] = 30.0,
    fraction: Annotated[float, typer.Option(help="Of the channels, injected.")] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help="Of the transformations.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path("outputs/bench_stress.json"),
) -> None:
    """Print and save both tables."""
    names = variants.split(",")
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise QvggtError(f"--variants: unknown {unknown[0]!r}, expected a subset of {','.join(VARIANTS)}")
    network = load_model(model, heads=("camera", "depth"))
    size = network.config.img_size
    seen, held_out = views(CALIBRATION, calibration, frames, size), views(HELD_OUT, scenes, frames, size)
    tables: dict[str, TailTable] = {}
    rows: list[dict[str, Any]] = []
    deviations = {}
    for name in names:
        changed = stressed(network, name, seen, factor, fraction, seed)
        deviations[name] = deviation(changed, network, held_out[0].images)
        tables[name] = measure_tails(changed, (view.images for view in seen), total=len(seen))
        rows.append({"variant": name, "setting": "fp32", **score(changed, held_out, f"{name} fp32")})
        for bits, mode in SETTINGS:
            scheme, rounded = parse_scheme(bits, mode), deepcopy(changed)
            quantize_rtn_(rounded, scheme, (view.images for view in seen), len(seen))
            figures = score(rounded, held_out, f"{name} {scheme.label}")
            rows.append({"variant": name, "setting": scheme.label, **figures})
    print(
        f"{model}: {scenes} held-out and {calibration} calibration scenes, {frames} frames; x{factor:g} on {fraction:g}"
    )
    print("Largest relative change of an output: " + ", ".join(f"{k} {v:.1e}" for k, v in deviations.items()))
    print_tails(tables)
    print_scores(rows)
    call = {"model": model, "scenes": scenes, "calibration": calibration, "frames": frames}
    call |= {"factor": factor, "fraction": fraction, "seed": seed}
    tails = {name: {**table.to_dict(), "summary": table.summary()} for name, table in tables.items()}
    report = {"call": call, "versions": versions(), "deviation": deviations, "tails": tails, "scores": rows}
    with atomic_write(output) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {output}")


def main() -> None:
    try:
        typer.run(bench)
    except QvggtError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
