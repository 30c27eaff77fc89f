"""Generated scenes that no model was trained on, and how a model does on them: cameras, depth, noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import sqnr_db
from scene_split import SceneSplit, load_split, render_split
from torch import Tensor

from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.eval.bootstrap import paired_interval
from qvggt.eval.depth import depth_errors
from qvggt.eval.pose import pairwise_errors, pose_auc
from qvggt.geometry import decode_pose
from qvggt.models.network import Network

HELD_OUT_SEED, CALIBRATION_SEED = 10_000_000, 50_000_000
FRAMES, BATCH, SIZE = 4, 16, 70
Predictions = dict[str, Tensor]
Scores = dict[str, list[float]]


def scenes_in(folder: Path, first_seed: int, count: int, workers: int = 2) -> SceneSplit:
    """`count` scenes of 70 x 70 pixels and 8 frames, rendered into `folder` unless they are there."""
    config = SceneConfig(height=SIZE, width=SIZE, family="random", frames=8)
    return load_split(render_split(config, range(first_seed, first_seed + count), folder, workers))


def images_of(split: SceneSplit, index: int) -> Tensor:
    """First FRAMES frames of a scene, [S, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(split.images[index, :FRAMES])).permute(0, 3, 1, 2).float() / 255


def drawn(config: SceneConfig, frames: int, seed: int) -> tuple[Tensor, Any]:
    """First `frames` images of a generated scene, [S, 3, H, W] in [0, 1], and their extrinsics, [S, 3, 4]."""
    scene = render(sample_scene(config, seed), config)
    return torch.from_numpy(scene.images[:frames]).permute(0, 3, 1, 2).float() / 255, scene.extrinsics[:frames]


@torch.no_grad()
def predict(model: Network, split: SceneSplit) -> Predictions:
    """Outputs of all scenes, [scenes, S, ...]."""
    batches = torch.stack([images_of(split, index) for index in range(len(split))]).split(BATCH)
    parts = [model(batch) for batch in batches]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def per_scene(outputs: Predictions, split: SceneSplit) -> Scores:
    """AUC (points) at every threshold and depth abs-rel of each scene."""
    height, width = split.images.shape[2:4]
    extrinsics, _ = decode_pose(outputs["pose_enc"].double(), height, width)
    scores: Scores = {key: [] for key in ("auc30", "auc15", "auc5", "auc3", "abs_rel")}
    for index, predicted in enumerate(extrinsics):
        truth = split.extrinsics[index, :FRAMES].astype(np.float64)
        for threshold, value in pose_auc([pairwise_errors(predicted, truth)]).items():
            scores[f"auc{threshold}"].append(100 * value)
        depth = outputs["depth"][index, :, ::2, ::2, 0].double().numpy()
        scores["abs_rel"].append(depth_errors(depth, split.depth[index, :FRAMES].astype(np.float64)).abs_rel)
    return scores


class Yardstick:
    """A float model's outputs and scores on held-out scenes, and other models against them."""

    def __init__(self, model: Network, split: SceneSplit) -> None:
        self.split = split
        self.outputs = predict(model, split)
        self.scores = per_scene(self.outputs, split)

    def row(self, model: Network, changes: tuple[str, ...] = ("auc30", "auc5")) -> dict[str, Any]:
        """Mean scores, their `changes` with paired-bootstrap 95 % intervals, and SQNR of every output; JSON-ready."""
        outputs = predict(model, self.split)
        scores = per_scene(outputs, self.split)
        row: dict[str, Any] = {name: round(float(np.mean(values)), 4) for name, values in scores.items()}
        for name in changes:
            row[f"{name}_change"] = round(float(np.mean(scores[name]) - np.mean(self.scores[name])), 3)
            row[f"{name}_interval"] = [round(value, 3) for value in paired_interval(self.scores[name], scores[name])]
        noise = {name: sqnr_db(truth, outputs[name]) for name, truth in self.outputs.items()}
        return row | {"sqnr_db": {name: round(value, 2) for name, value in noise.items()}}
