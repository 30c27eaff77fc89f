"""What the point metrics cost: one generated scene and some candidates, the protocol computed step by step quicker.

    python tools/bench_eval.py                # 224 x 224 pixels, 4 views, 3 candidates: some minutes
    python tools/bench_eval.py --size 112     # quick

The first row does what was done before: the truth's tree and normals for every candidate, a fresh query of all points
in every step of ICP, one candidate after another. Each further row keeps what the rows above it changed. Processor time
is of all cores together; the last column is the largest relative difference of any figure to the first row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any
from unittest import mock

import numpy as np
import typer
from reporting import columns, start

from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.eval import registration
from qvggt.eval.harness import measure_points
from qvggt.eval.points import PointConfig, PointErrors, TruePoints, point_errors, true_points
from qvggt.predictions import Predictions

NOISE, WAVE = 0.01, 0.03  # of a candidate's points: of every pixel, and of the whole map, as shares of a unit


class FreshPairs(registration.Pairs):
    """All pairs asked for again at every step."""

    def __call__(self, moved: Any) -> Any:
        return self._tree.query(moved, distance_upper_bound=self._distance, workers=-1)


def main(
    size: Annotated[int, typer.Option(help="Side of the images.")] = 224,
    views: Annotated[int, typer.Option(help="Images of the scene.")] = 4,
    candidates: Annotated[int, typer.Option(help="How many are measured.")] = 3,
    backend: Annotated[str, typer.Option(help="scipy or open3d.")] = "scipy",
) -> None:
    """Seconds of the point metrics, before and after."""
    config = SceneConfig(height=size, width=size, frames=views)
    scene = render(sample_scene(config, 5), config)
    maps, valid = true_points(scene.depth, scene.extrinsics, scene.intrinsics), scene.depth > 0
    rng = np.random.default_rng(0)
    waves = rng.normal(0, 1, (candidates, 3, 3))
    made = [maps * (1 + WAVE * np.sin(maps @ wave).mean(-1, keepdims=True)) for wave in waves]
    predicted = [
        Predictions(np.zeros((views, 9), np.float32), world_points=p + rng.normal(0, NOISE, p.shape)) for p in made
    ]
    asked = PointConfig(backend=backend)  # type: ignore[arg-type]

    def truth(**changes: Any) -> TruePoints:
        return TruePoints(maps, valid, replace(asked, **changes), "scene")

    def alone(true: Callable[[], TruePoints]) -> list[PointErrors]:
        return [point_errors(one.world_points, true()) for one in predicted]  # type: ignore[arg-type]

    def together(**changes: Any) -> list[PointErrors]:
        return [found["head"] for found in measure_points(predicted, truth(**changes))]

    def shared() -> list[PointErrors]:
        true = truth()
        return alone(lambda: true)

    rows: list[dict[str, Any]] = []
    first: list[PointErrors] = []
    steps: dict[str, tuple[bool, Callable[[], list[PointErrors]]]] = {
        "before": (True, lambda: alone(truth)),
        "one truth for all candidates": (True, shared),
        "pairs that last": (False, shared),
        "all cores": (False, together),
        "--icp-points 20000": (False, lambda: together(icp_points=20_000)),
    }
    for name, (fresh, step) in steps.items():
        with mock.patch.object(registration, "Pairs", FreshPairs if fresh else registration.Pairs):
            wall, processor = time.perf_counter(), time.process_time()
            found = step()
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
        first = first or found
        pairs = [(vars(a)[key], vars(b)[key]) for a, b in zip(first, found, strict=True) for key in vars(a)]
        rows.append({"what": name, "wall": wall, "cpu": processor, "off": max(abs(b / a - 1) for a, b in pairs)})
        for key in ("wall", "cpu"):
            rows[-1][f"{key}_ratio"] = rows[0][key] / rows[-1][key]
    spec = {"": "what", "s": "wall {:.1f}", "quicker": "wall_ratio {:.2f}x", "processor s": "cpu {:.1f}"}
    print(columns(rows, {**spec, "of it": "cpu_ratio {:.2f}x", "figures differ by": "off {:.0e}"}))


if __name__ == "__main__":
    start(main)
