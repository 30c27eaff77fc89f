"""Tails of every linear's input, and round-to-nearest accuracy, before and after exact stress transformations.

    python tools/bench_stress.py                         # the tiny model, 128 held-out scenes
    python tools/bench_stress.py --model my.safetensors --scenes 256 --factor 100

Variants of one model, all computing the same function in float: `plain`; `inject`, outlier channels times --factor;
`pca`, residual streams in their PCA basis (see outlier_injection). The numbers of the last two are synthetic stress.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from activation_statistics import LinearStatistics, measure_activations, summary
from held_out import BATCH, HELD_OUT_SEED, drawn
from numpy.typing import NDArray
from outlier_injection import inject_outliers_, pca_basis_
from reporting import markdown, start, write_json
from torch import Tensor

from qvggt.calib.rtn import quantize_rtn_
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.errors import QvggtError
from qvggt.eval.pose import pairwise_errors, pose_auc
from qvggt.geometry import decode_pose
from qvggt.hub.loading import load_model
from qvggt.models.network import Network
from qvggt.progress import bar
from qvggt.quant.scheme import parse_scheme
from qvggt.versions import versions

VARIANTS = ("plain", "inject", "pca")
SETTINGS = tuple((bits, mode) for bits in ("w8a8", "w4a4") for mode in ("dynamic", "static"))
CALIBRATION_SEED = 0  # the held-out ones meet neither training nor calibration
FIGURES = {
    "kurtosis": "kurtosis",
    "max_over_median": "max/med",
    "channel_ratio": "ch max/med",
    "token_ratio": "tok max/med",
    "special_over_patch": "special/patch",
    "kurtosis_max": "kurt_max",
    "max_over_median_max": "mm_max",
}


View = tuple[Tensor, NDArray[np.float64]]  # images [S, 3, H, W] in [0, 1]; extrinsics [S, 3, 4], OpenCV axes


def views(first: int, count: int, frames: int, size: int) -> list[View]:
    """The first `frames` frames of the scenes with seeds first, first + 1, ..."""
    config = SceneConfig(height=size, width=size, frames=max(8, frames))
    return [drawn(config, frames, seed) for seed in bar(range(first, first + count), desc="render", unit="scene")]


def stressed(
    model: Network, variant: str, seen: Sequence[Tensor], factor: float, fraction: float, seed: int
) -> Network:
    """A stressed copy."""
    out = deepcopy(model)
    if variant == "inject":
        inject_outliers_(out, factor, fraction, seed)
    elif variant == "pca":
        pca_basis_(out, seen, seed)
    return out


@torch.no_grad()
def score(model: Network, held_out: Sequence[View], desc: str) -> dict[str, float]:
    """AUC@30/15/5/3 over all pairs of views, percent."""
    errors = []
    for first in bar(range(0, len(held_out), BATCH), desc=desc, unit="batch"):
        part = held_out[first : first + BATCH]
        images = torch.stack([images for images, _ in part])
        extrinsics, _ = decode_pose(model(images)["pose_enc"].double(), *images.shape[-2:])
        errors += [pairwise_errors(found, true) for found, (_, true) in zip(extrinsics, part, strict=True)]
    return {f"auc{t}": round(100 * value, 2) for t, value in pose_auc(errors).items()}


@torch.no_grad()
def deviation(model: Network, reference: Network, images: Tensor) -> float:
    """Largest difference of any output, relative to the output's largest value."""
    got, expected = model(images), reference(images)
    return max(float((got[k] - v).abs().max() / v.abs().max()) for k, v in expected.items())


def print_statistics(tables: dict[str, list[LinearStatistics]]) -> None:
    print("\nKurtosis (3 = Gaussian) and max|x| / median|x| at the input of every linear:")
    lines = zip(*tables.values(), strict=True)
    cells = [[rows[0].path, *(f"{row.kurtosis:.1f}, {row.max_over_median:.1f}" for row in rows)] for rows in lines]
    print(markdown(["linear", *tables], cells))
    print("Medians over the layers of a kind; *_max: over them the largest:")
    summaries = [(name, kind, figures) for name, table in tables.items() for kind, figures in summary(table).items()]
    cells = [
        [name, kind, *(f"{figures[key]:.2f}" if key in figures else "-" for key in FIGURES)]
        for name, kind, figures in summaries
    ]
    print(markdown(["model", "linear", *FIGURES.values()], cells), end="")


def print_scores(rows: Sequence[dict[str, Any]]) -> None:
    print("\nRound to nearest:")
    cells = [[row["variant"], row["setting"], *(f"{row[f'auc{t}']:.1f}" for t in (30, 15, 5, 3))] for row in rows]
    print(markdown(["model", "setting", "AUC@30", "@15", "@5", "@3"], cells), end="")


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
    seen = [images for images, _ in views(CALIBRATION_SEED, calibration, frames, size)]
    held_out = views(HELD_OUT_SEED, scenes, frames, size)
    tables: dict[str, list[LinearStatistics]] = {}
    rows: list[dict[str, Any]] = []
    deviations = {}
    for name in names:
        changed = stressed(network, name, seen, factor, fraction, seed)
        deviations[name] = deviation(changed, network, held_out[0][0])
        tables[name] = measure_activations(changed, seen)
        rows.append({"variant": name, "setting": "fp32", **score(changed, held_out, f"{name} fp32")})
        for bits, mode in SETTINGS:
            scheme, rounded = parse_scheme(bits, mode), deepcopy(changed)
            quantize_rtn_(rounded, scheme, seen, len(seen))
            figures = score(rounded, held_out, f"{name} {scheme.label}")
            rows.append({"variant": name, "setting": scheme.label, **figures})
    print(
        f"{model}: {scenes} held-out and {calibration} calibration scenes, {frames} frames; x{factor:g} on {fraction:g}"
    )
    print("Largest relative change of an output: " + ", ".join(f"{k} {v:.1e}" for k, v in deviations.items()))
    print_statistics(tables)
    print_scores(rows)
    call = {"model": model, "scenes": scenes, "calibration": calibration, "frames": frames}
    call |= {"factor": factor, "fraction": fraction, "seed": seed}
    tails = {
        name: {"rows": [asdict(row) for row in table], "summary": summary(table)} for name, table in tables.items()
    }
    report = {"call": call, "versions": versions(), "deviation": deviations, "tails": tails, "scores": rows}
    write_json(output, report)


if __name__ == "__main__":
    start(bench)
