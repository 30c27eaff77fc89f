"""Calibration-set selection on pools with planted noise: what the filter finds, and how diverse the choice is.

    python tools/bench_selection.py                          # the tiny model, 4 pools of 48 scenes and planted noise
    python tools/bench_selection.py --pools 1 --frames 8

Each pool holds generated scenes and, of every kind below, `--planted` sequences. `whole` kinds have nothing in common
with the pool and must all be rejected; `partial` kinds are a good sequence with one bad frame. Beside our filter, the
published fences (1.5 interquartile ranges on mean and std, drawn once). Diversity among the accepted sequences: mean
pairwise distance of the chosen (larger is better) and mean distance of all accepted to the nearest chosen (smaller is
better), against drawing as many at random with `--draws` seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from held_out import drawn
from numpy.typing import NDArray
from reporting import start, write_json
from torch import Tensor

from qvggt.calib.diversity import PICKS, coverage_distance, mean_pairwise_distance
from qvggt.calib.selection import Record, SelectionConfig, cluster_points, measure_pool, select_records
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.errors import QvggtError
from qvggt.hub.loading import load_model
from qvggt.models.family import family_of
from qvggt.versions import versions

FIRST_SEED = 80_000_000  # no scene used to train, to evaluate, or (60_000_000 on) to settle the filter's defaults
GOOD, CATEGORY = "good", "synthetic"
Scene = Callable[[int], Tensor]


def blank(index: int, scene: Scene, draw: torch.Generator) -> Tensor:
    """Black, white, grey, then random colours."""
    level = torch.full((3, 1, 1), (0.0, 1.0, 0.5)[index]) if index < 3 else torch.rand(3, 1, 1, generator=draw)
    return level.expand_as(scene(0)).clone()


def noise(index: int, scene: Scene, draw: torch.Generator) -> Tensor:
    """Uniform and normal noise in turn."""
    shape = scene(0).shape
    if index % 2 == 0:
        return torch.rand(shape, generator=draw)
    return (0.5 + 0.2 * torch.randn(shape, generator=draw)).clamp(0, 1)


def shuffled(index: int, scene: Scene, draw: torch.Generator) -> Tensor:
    """Every frame from another scene."""
    frames = len(scene(0))
    return torch.stack([scene(index * frames + f)[f] for f in range(frames)])


def with_last(images: Tensor, frame: Tensor | float) -> Tensor:
    changed = images.clone()
    changed[-1] = frame
    return changed


WHOLE = {"blank": blank, "noise": noise, "shuffled": shuffled}
PARTIAL: dict[str, Callable[[int, Scene, torch.Generator], Tensor]] = {
    "one blank frame": lambda index, scene, _: with_last(scene(index), float(index % 2)),
    "one foreign frame": lambda index, scene, _: with_last(scene(index), scene(index + 1)[-1]),
}


def pool_sequences(
    config: SceneConfig, frames: int, first: int, good: int, planted: int
) -> Iterator[tuple[str, str, Tensor]]:
    """(key, category, images); a key starts with the kind. Planted ones are made of scenes that are not in the pool."""
    for index in range(good):
        yield f"{GOOD}/{index:04}", CATEGORY, drawn(config, frames, first + index)[0]
    draw = torch.Generator().manual_seed(first)

    def other(index: int) -> Tensor:
        return drawn(config, frames, first + good + index)[0]

    for kind, make in {**WHOLE, **PARTIAL}.items():
        for index in range(planted):
            yield f"{kind}/{index:04}", CATEGORY, make(index, other, draw)


def published_fences(records: list[Record]) -> set[str]:
    """Keys outside 1.5 interquartile ranges in mean or std of any layer."""
    table = np.stack([record.features.statistics[:, :2].ravel() for record in records])
    low, high = np.percentile(table, [25, 75], axis=0)
    reach = 1.5 * (high - low)
    outside = ((table < low - reach) | (table > high + reach)).any(axis=1)
    return {record.key for record, out in zip(records, outside, strict=True) if out}


def diversity(points: NDArray[np.float64], rows: list[int]) -> tuple[float, float]:
    return mean_pairwise_distance(points[rows]), coverage_distance(points, points[rows])


def compare_picks(records: list[Record], config: SelectionConfig, draws: int) -> dict[str, dict[str, float]]:
    """Way of choosing -> mean pairwise distance and coverage distance; `uniform` is the mean of `draws` random draws.
    `beats`: shares of those draws that the choice is better than."""
    points = cluster_points([record.features for record in records])
    size = min(config.size, len(records))
    generators = [np.random.default_rng(seed) for seed in range(draws)]
    random = np.array([diversity(points, rng.choice(len(records), size, False).tolist()) for rng in generators])
    rows = {"uniform": dict(zip(("pairwise", "coverage"), random.mean(axis=0).tolist(), strict=True))}
    for pick in PICKS:
        changed = SelectionConfig(**{**asdict(config), "pick": pick, "false_alarm": 0.0})
        chosen = set(select_records(records, changed).chosen)
        pairwise, coverage = diversity(points, [i for i, record in enumerate(records) if record.key in chosen])
        beaten = float((pairwise > random[:, 0]).mean()), float((coverage < random[:, 1]).mean())
        rows[pick] = {"pairwise": pairwise, "coverage": coverage, "beats": beaten[0], "beats_coverage": beaten[1]}
    return rows


def count_kinds(keys: set[str], records: list[Record]) -> dict[str, list[int]]:
    """Kind -> [rejected, all]."""
    counts: dict[str, list[int]] = {}
    for record in records:
        count = counts.setdefault(record.key.split("/")[0], [0, 0])
        count[0] += record.key in keys
        count[1] += 1
    return counts


def mean_rows(pools: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    first = pools[0]["diversity"]
    return {
        name: {key: float(np.mean([pool["diversity"][name][key] for pool in pools])) for key in first[name]}
        for name in first
    }


def print_report(rejected: dict[str, dict[str, list[int]]], rows: dict[str, dict[str, float]], draws: int) -> None:
    print(f"\n{'rejected':<20}{'ours':>10}{'published fences':>20}")
    for kind in rejected["ours"]:
        cells = [f"{rejected[name][kind][0]}/{rejected[name][kind][1]}" for name in ("ours", "published")]
        print(f"{kind:<20}{cells[0]:>10}{cells[1]:>20}")
    print(f"\n{'choice':<12}{'pairwise':>10}{'coverage':>10}   better than random in (of {draws} draws)")
    for name, row in rows.items():
        beats = f"   {row['beats']:.0%} pairwise, {row['beats_coverage']:.0%} coverage" if "beats" in row else ""
        print(f"{name:<12}{row['pairwise']:>10.4f}{row['coverage']:>10.4f}{beats}")


def bench(
    model: Annotated[str, typer.Option(help="tiny, or any float checkpoint.")] = "tiny",
    pools: Annotated[int, typer.Option(min=1, help="Pools, each with scenes of its own.")] = 4,
    good: Annotated[int, typer.Option(min=8, help="Good sequences in a pool.")] = 48,
    planted: Annotated[int, typer.Option(min=1, help="Planted sequences of each kind.")] = 4,
    frames: Annotated[int, typer.Option(min=2, help="Frames of each sequence.")] = 4,
    clusters: Annotated[int, typer.Option(min=1)] = 5,
    per_cluster: Annotated[int, typer.Option(min=1)] = 4,
    first_seed: Annotated[int, typer.Option(min=0, help="Of the first scene.")] = FIRST_SEED,
    draws: Annotated[int, typer.Option(min=1, help="Random selections to compare with.")] = 50,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path(
        "outputs/bench_selection.json"
    ),
) -> None:
    """Print and save both tables; an error when a whole planted sequence gets through."""
    torch.set_num_threads(threads)
    network = load_model(model, heads=("camera",))
    size, rounds = network.config.img_size, len(family_of(network).rounds(network.config))
    scenes = SceneConfig(height=size, width=size, frames=max(8, frames))
    config = SelectionConfig(clusters=clusters, per_cluster=per_cluster, deep_rounds=min(4, rounds))
    results: list[dict[str, Any]] = []
    began = time.perf_counter()
    for number in range(pools):
        first = first_seed + number * 10_000
        sequences = pool_sequences(scenes, frames, first, good, planted)
        count = good + planted * len({**WHOLE, **PARTIAL})
        records = measure_pool(network, sequences, config.deep_rounds, total=count)
        selection = select_records(records, config)
        rejected = set(selection.rejected)
        kept = sorted((r for r in records if r.key not in rejected), key=lambda record: record.key)
        results.append(
            {
                "ours": count_kinds(rejected, records),
                "published": count_kinds(published_fences(records), records),
                "diversity": compare_picks(kept, config, draws),
                "chosen": list(selection.chosen),
                "reasons": {s.key: s.reason for s in selection.sequences if s.status == "rejected"},
                "sha256": selection.sha256,
            }
        )
    counts = {
        name: {
            kind: [sum(pool[name][kind][i] for pool in results) for i in (0, 1)] for kind in (GOOD, *WHOLE, *PARTIAL)
        }
        for name in ("ours", "published")
    }
    rows = mean_rows(results)
    print(f"{model}: {pools} pools of {good} scenes and {planted} of each planted kind, {frames} frames")
    print_report(counts, rows, draws)
    whole = [sum(counts["ours"][kind][i] for kind in WHOLE) for i in (0, 1)]
    print(
        f"\nplanted rejected {whole[0]}/{whole[1]}, good rejected {counts['ours'][GOOD][0]}/{counts['ours'][GOOD][1]}"
    )
    call = {"model": model, "pools": pools, "good": good, "planted": planted, "frames": frames, "draws": draws}
    call |= {"first_seed": first_seed}
    report = {
        "call": call,
        "config": asdict(config),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
        "rejected": counts,
        "diversity": rows,
        "pools": results,
    }
    write_json(output, report)
    if whole[0] < whole[1]:
        raise QvggtError(f"{whole[1] - whole[0]} of {whole[1]} planted sequences got through the noise filter")


if __name__ == "__main__":
    start(bench)
