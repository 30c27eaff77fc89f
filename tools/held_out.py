"""Generated scenes that no model was trained on, and how a model does on them: cameras, depth, noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from reporting import sqnr_db
from scene_split import SceneSplit, load_split, render_split
from torch import Tensor

from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, rich, sample_scene
from qvggt.device import device_of
from qvggt.errors import QvggtError
from qvggt.eval.bootstrap import Bootstrap
from qvggt.eval.depth import DepthErrors, depth_errors
from qvggt.eval.metrics import Column, pose_auc
from qvggt.eval.pose import THRESHOLDS, PoseErrors, auc, pairwise_errors
from qvggt.geometry import decode_pose
from qvggt.models.network import Network

HELD_OUT_SEED, CALIBRATION_SEED = 10_000_000, 50_000_000
FRAMES, BATCH = 4, 16
SIZE = SceneConfig().height  # of the tiny model; other models: `scene_config`
FAMILIES = {"random": SceneConfig(), "room": SceneConfig(family="room"), "rich": rich()}
TRAINED_ON = {SIZE: "random", rich().height: "rich"}  # image size -> family of the models of that size
Predictions = dict[str, Tensor]
Scores = dict[str, list[float]]


def scene_config(size: int, family: str | None = None, frames: int | None = None) -> SceneConfig:
    """Square scenes for models of this image size; family, frames: what such models were trained on unless given."""
    name = TRAINED_ON.get(size, "random") if family is None else family
    if name not in FAMILIES:
        raise QvggtError(f"scene family {name!r}: expected one of {', '.join(FAMILIES)}")
    found = FAMILIES[name]
    return replace(found, height=size, width=size, frames=found.frames if frames is None else frames)


def scenes_in(
    folder: Path, first_seed: int, count: int, config: SceneConfig = FAMILIES["random"], workers: int = 2
) -> SceneSplit:
    """`count` scenes, rendered into `folder` unless they are there."""
    return load_split(render_split(config, range(first_seed, first_seed + count), folder, workers))


def images_of(split: SceneSplit, index: int, frames: int = FRAMES) -> Tensor:
    """First frames of a scene, [S, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(split.images[index, :frames])).permute(0, 3, 1, 2).float() / 255


def drawn(config: SceneConfig, frames: int, seed: int) -> tuple[Tensor, Any]:
    """First `frames` images of a generated scene, [S, 3, H, W] in [0, 1], and their extrinsics, [S, 3, 4]."""
    scene = render(sample_scene(config, seed), config)
    return torch.from_numpy(scene.images[:frames]).permute(0, 3, 1, 2).float() / 255, scene.extrinsics[:frames]


@torch.no_grad()
def predict(model: Network, split: SceneSplit, scenes: int | None = None, frames: int = FRAMES) -> Predictions:
    """Cameras and depth of the first scenes, [scenes, S, ...]; nothing is judged by the point head, so it rests."""
    images = [images_of(split, index, frames) for index in range(scenes or len(split))]
    device, network = device_of(model), cast(Any, model)
    head = getattr(model, "point_head", None)
    try:
        if head is not None:
            network.point_head = None
        parts = [{n: x.cpu() for n, x in network(b.to(device)).items()} for b in torch.stack(images).split(BATCH)]
    finally:
        if head is not None:
            network.point_head = head
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def errors_of(outputs: Predictions, split: SceneSplit) -> tuple[list[PoseErrors], list[DepthErrors]]:
    """Of cameras and depth, one a scene."""
    scenes, frames = outputs["depth"].shape[:2]
    extrinsics, _ = decode_pose(outputs["pose_enc"].double(), *split.images.shape[2:4])
    depths = outputs["depth"][:, :, ::2, ::2, 0].double().numpy()
    true_cameras, true_depths = (x[:scenes, :frames].astype(np.float64) for x in (split.extrinsics, split.depth))
    cameras = [pairwise_errors(*pair) for pair in zip(extrinsics, true_cameras, strict=True)]
    return cameras, [depth_errors(*pair) for pair in zip(depths, true_depths, strict=True)]


def score(model: Network, split: SceneSplit, scenes: int, frames: int) -> dict[str, float]:
    """First `frames` frames of the first `scenes` scenes; AUC in percent, depth errors after median scaling."""
    cameras, depths = errors_of(predict(model, split, scenes, frames), split)
    return {
        **{f"auc{t}": round(100 * value, 2) for t, value in pose_auc(cameras).items()},
        "abs_rel": round(float(np.mean([d.abs_rel for d in depths])), 4),
        "delta125": round(float(np.mean([d.delta1 for d in depths])), 4),
        "scenes": scenes,
        "frames": frames,
    }


def per_scene(outputs: Predictions, split: SceneSplit) -> Scores:
    """AUC (points) at every threshold and depth abs-rel of each scene."""
    cameras, depths = errors_of(outputs, split)
    scores = {f"auc{t}": [100 * auc(errors.worst_deg, t) for errors in cameras] for t in THRESHOLDS}
    return scores | {"abs_rel": [depth.abs_rel for depth in depths]}


class Yardstick:
    """A float model's outputs and scores on held-out scenes, and other models against them."""

    def __init__(self, model: Network, split: SceneSplit, frames: int = FRAMES) -> None:
        self.split, self.frames = split, frames
        self.outputs = predict(model, split, frames=frames)
        self.scores = per_scene(self.outputs, split)

    def row(self, model: Network, changes: tuple[str, ...] = ("auc30", "auc5")) -> dict[str, Any]:
        """Mean scores, their `changes` with paired-bootstrap 95 % intervals, and SQNR of every output; JSON-ready."""
        outputs = predict(model, self.split, frames=self.frames)
        scores = per_scene(outputs, self.split)
        row: dict[str, Any] = {name: round(float(np.mean(values)), 4) for name, values in scores.items()}
        for name in changes:
            row[f"{name}_change"] = round(float(np.mean(scores[name]) - np.mean(self.scores[name])), 3)
            interval = Bootstrap().paired(Column.of(self.scores[name]), Column.of(scores[name]))
            row[f"{name}_interval"] = [round(value, 3) for value in interval or [row[f"{name}_change"]] * 2]
        noise = {name: sqnr_db(truth, outputs[name]) for name, truth in self.outputs.items()}
        return row | {"sqnr_db": {name: round(value, 2) for name, value in noise.items()}}
