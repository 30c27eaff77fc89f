"""What splitting a sequence into passes costs: camera errors of one pass against several joined ones, tiny model.

    python tools/bench_passes.py                       # docs/results/passes.json
    python tools/bench_passes.py --scenes 8 -o outputs/passes.json

Generated scenes that the model was not trained on. Every scene is reconstructed at once, and in overlapping passes of
half its images joined by similarities (`qvggt.eval.reconstruction`). Errors are over all pairs of images of a scene,
against the true cameras; pairs that no pass saw together are what joining is for. `exact` rows: the true depth and
cameras through the same code, every pass in a unit and frame of its own, so that the error is that of the code.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from reporting import start, write_json

from qvggt.engines.torch_runner import open_model
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.metrics import pose_auc
from qvggt.eval.pose import PoseErrors, pairwise_errors
from qvggt.eval.reconstruction.frames import load_frames
from qvggt.eval.reconstruction.passes import Pass, plan_passes
from qvggt.eval.reconstruction.scene import Join, reconstruct
from qvggt.progress import bar
from qvggt.versions import versions

ROOT = Path(__file__).resolve().parent.parent
FIRST_SEED = 21_000_000  # of the test split of qvggt scenes
SIDE = 70


def row(name: str, errors: list[PoseErrors], joins: list[Join]) -> dict[str, Any]:
    rotation = np.concatenate([e.rotation_deg for e in errors])
    translation = np.concatenate([e.translation_deg for e in errors])
    found = {
        "name": name,
        "auc30": 100 * pose_auc(errors)[30],
        "rotation_deg_median": float(np.median(rotation)),
        "rotation_deg_p90": float(np.percentile(rotation, 90)),
        "translation_deg_median": float(np.median(translation)),
        "joins": len(joins),
    }
    for figure in ("residual_median", "camera_deg", "camera_shift"):
        found[f"join_{figure}"] = float(np.median([getattr(j, figure) for j in joins])) if joins else None
    return found


def main(
    scenes: Annotated[int, typer.Option(min=1, help="Generated scenes.")] = 16,
    images: Annotated[int, typer.Option(min=4, help="Images of a scene.")] = 12,
    output: Annotated[Path, typer.Option("-o", help="JSON to write.")] = ROOT / "docs/results/passes.json",
) -> None:
    """Measure, print a table, write JSON."""
    sys.path.insert(0, str(ROOT / "tests"))
    from true_runner import TrueRunner, shoot

    most = images // 2
    plans = {"one pass": [Pass(0, images, 0)]}
    for overlap in (1, most // 2, most - 2):
        passes = plan_passes(images, most, overlap)
        least = min(p.shared for p in passes[1:])
        plans[f"{len(passes)} passes of {len(passes[0])}, {least} or more shared"] = passes
    errors: dict[str, list[PoseErrors]] = {}
    joins: dict[str, list[Join]] = {}
    with open_model("tiny") as tiny, tempfile.TemporaryDirectory() as folder:
        for seed in bar(range(FIRST_SEED, FIRST_SEED + scenes), desc="scenes", unit="scene"):
            taken = shoot(Path(folder), [(SIDE, SIDE)] * images, seed)
            frames = load_frames(taken.paths, ImagePlan(SIDE))
            exact = TrueRunner(taken, frames, own_worlds=True, seed=seed)
            for kind, runner in (("tiny", tiny), ("exact", exact)):
                for plan, passes in plans.items():
                    scene, joined = reconstruct(runner, frames, passes)
                    found = pairwise_errors(scene.extrinsics, exact.extrinsics)
                    errors.setdefault(f"{kind}: {plan}", []).append(found)
                    joins.setdefault(f"{kind}: {plan}", []).extend(joined)
    rows = [row(name, errors[name], joins[name]) for name in errors]
    for one in rows:
        print(
            f"{one['name']:<34} AUC@30 {one['auc30']:6.2f}  rotation median {one['rotation_deg_median']:.3f} deg, "
            f"p90 {one['rotation_deg_p90']:.3f}  translation median {one['translation_deg_median']:.3f} deg"
        )
    report = {"scenes": scenes, "images": images, "first_seed": FIRST_SEED, "rows": rows, "versions": versions()}
    write_json(output, report)


if __name__ == "__main__":
    start(main)
