"""Held-out score of a model on a rendered split: camera AUC and depth errors of the real fp32 forward pass."""

from __future__ import annotations

import numpy as np
import torch
from scene_split import SceneSplit

from qvggt.eval.depth import depth_errors
from qvggt.eval.pose import pairwise_errors, pose_auc
from qvggt.geometry import decode_pose
from qvggt.models.vggt.network import VGGT


def score(model: VGGT, split: SceneSplit, scenes: int, frames: int, batch: int = 16) -> dict[str, float]:
    """First `frames` frames of the first `scenes` scenes; AUC in percent, depth errors after median scaling."""
    errors, depths = [], []
    for start in range(0, scenes, batch):
        chosen = slice(start, min(start + batch, scenes))
        images = torch.from_numpy(np.array(split.images[chosen, :frames])).permute(0, 1, 4, 2, 3).float() / 255
        with torch.no_grad():
            out = model(images)
        extrinsics, _ = decode_pose(out["pose_enc"].double(), *images.shape[-2:])
        truth = split.extrinsics[chosen, :frames].astype(np.float64)
        errors += [pairwise_errors(predicted, true) for predicted, true in zip(extrinsics, truth, strict=True)]
        maps = out["depth"][..., ::2, ::2, 0].double().numpy(), split.depth[chosen, :frames].astype(np.float64)
        depths += [depth_errors(predicted, true) for predicted, true in zip(*maps, strict=True)]
    return {
        **{f"auc{t}": round(100 * value, 2) for t, value in pose_auc(errors).items()},
        "abs_rel": round(float(np.mean([d.abs_rel for d in depths])), 4),
        "delta125": round(float(np.mean([d.delta1 for d in depths])), 4),
        "scenes": scenes,
        "frames": frames,
    }
