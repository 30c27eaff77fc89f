"""The shipped weights are the trained model: they see relative pose and depth on scenes nobody trained on."""

from __future__ import annotations

import numpy as np
import torch

from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.eval.depth import depth_errors
from qvggt.eval.metrics import pose_auc
from qvggt.eval.pose import pairwise_errors
from qvggt.geometry import decode_pose
from qvggt.hub.loading import load_model
from qvggt.hub.names import find_weights

UNSEEN = range(60_000_000, 60_000_024)


def test_small_enough_to_ship() -> None:
    assert find_weights("tiny").stat().st_size < 25_000_000


def test_accuracy_on_unseen_scenes() -> None:
    model, config = load_model("tiny"), SceneConfig(height=70, width=70, frames=4)
    views = [render(sample_scene(config, seed), config) for seed in UNSEEN]
    images = torch.from_numpy(np.stack([v.images for v in views])).permute(0, 1, 4, 2, 3).float() / 255
    with torch.no_grad():
        out = model(images)
    extrinsics, _ = decode_pose(out["pose_enc"].double(), 70, 70)
    auc = pose_auc([pairwise_errors(e, v.extrinsics) for e, v in zip(extrinsics, views, strict=True)])
    depth = [depth_errors(d[..., 0], v.depth).abs_rel for d, v in zip(out["depth"].numpy(), views, strict=True)]
    assert auc[30] > 0.65
    assert np.mean(depth) < 0.15


def test_relative_pose_comes_from_the_images() -> None:
    """Frames of different scenes have no relative pose to find: the score collapses."""
    model, config = load_model("tiny"), SceneConfig(height=70, width=70, frames=4)
    views = [render(sample_scene(config, seed), config) for seed in UNSEEN]
    mixed = [np.stack([views[(i + 5 * f) % len(views)].images[f] for f in range(4)]) for i in range(len(views))]
    with torch.no_grad():
        out = model(torch.from_numpy(np.stack(mixed)).permute(0, 1, 4, 2, 3).float() / 255)
    extrinsics, _ = decode_pose(out["pose_enc"].double(), 70, 70)
    auc = pose_auc([pairwise_errors(e, v.extrinsics) for e, v in zip(extrinsics, views, strict=True)])
    assert auc[30] < 0.3
