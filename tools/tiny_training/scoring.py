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
    errors, depth_rel, delta = [], [], []
    bottom = np.array([0.0, 0, 0, 1])
    for start in range(0, scenes, batch):
        stop = min(start + batch, scenes)
        images = torch.from_numpy(np.array(split.images[start:stop, :frames])).permute(0, 1, 4, 2, 3).float() / 255
        with torch.no_grad():
            out = model(images)
        extrinsics, _ = decode_pose(out["pose_enc"].double(), images.shape[-2], images.shape[-1])
        for b in range(stop - start):
            truth = np.concatenate(
                [split.extrinsics[start + b, :frames].astype(np.float64), np.tile(bottom, (frames, 1, 1))], 1
            )
            errors.append(pairwise_errors(extrinsics[b].numpy(), truth))
            predicted = out["depth"][b, :, ::2, ::2, 0].double().numpy()
            result = depth_errors(predicted, split.depth[start + b, :frames].astype(np.float64))
            depth_rel.append(result.abs_rel)
            delta.append(result.delta1)
    auc = pose_auc(errors)
    return {
        **{f"auc{t}": round(100 * value, 2) for t, value in auc.items()},
        "abs_rel": round(float(np.mean(depth_rel)), 4),
        "delta125": round(float(np.mean(delta)), 4),
        "scenes": scenes,
        "frames": frames,
    }
