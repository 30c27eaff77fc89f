"""Training losses: cameras, dense geometry, and the correspondence terms that make cross-view matching emerge."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.batches import PATCH, STRIDE, Batch
from training.forward import Taps

CELLS = PATCH // STRIDE  # stride-2 points per patch side


def camera_loss(poses: list[Tensor], target: Tensor) -> Tensor:
    """Later refinements weigh more (0.6 per step back)."""
    total = target.new_zeros(())
    for k, pose in enumerate(poses):
        error = (pose - target).abs()
        step = error[..., :3].mean() + error[..., 3:7].mean() + 0.5 * error[..., 7:].mean()
        total = total + 0.6 ** (len(poses) - 1 - k) * step
    return total / len(poses)


def confident(error: Tensor, confidence: Tensor) -> Tensor:
    """Errors weighed by a confidence that must pay for itself (VGGT's aleatoric loss, alpha 0.2)."""
    return (error * confidence - 0.2 * confidence.log()).mean()


class Auxiliary(nn.Module):
    """Training-only heads: a linear geometry read-out of every patch token, and matching descriptors per round."""

    def __init__(self, dim: int, rounds: int) -> None:
        super().__init__()
        self.geometry = nn.Linear(2 * dim, CELLS * CELLS * 5)
        self.descriptors = nn.ModuleList(nn.Linear(dim, 64) for _ in range(rounds))

    def geometry_loss(self, tokens: Tensor, batch: Batch) -> Tensor:
        """tokens [B, S, h*w, 2C]: xyz in frame 0, log z and confidence of the 7 x 7 sub-cells of each patch."""
        b, s, n, _ = tokens.shape
        rows, cols = batch.depth.shape[2] // CELLS, batch.depth.shape[3] // CELLS
        out = self.geometry(tokens).view(b, s, n, CELLS * CELLS, 5)

        def cells(x: Tensor) -> Tensor:  # [B, S, D, D, k] -> [B, S, h*w, 49, k]
            x = x.view(b, s, rows, CELLS, cols, CELLS, -1).transpose(3, 4)
            return x.reshape(b, s, n, CELLS * CELLS, -1)

        confidence = 1 + out[..., 4].exp()
        points = (out[..., :3] - cells(batch.points)).abs().sum(-1)
        depth = (out[..., 3] - cells(batch.depth.log()[..., None])[..., 0]).abs()
        return confident(points + depth, confidence)

    def descriptor_loss(self, taps: Taps, batch: Batch, special: int) -> Tensor:
        """InfoNCE between matching patches of every ordered frame pair, temperature 1/12."""
        total = batch.images.new_zeros(())
        for layer, tokens in zip(self.descriptors, taps.frame_tokens, strict=True):
            d = F.normalize(layer(tokens[:, :, special:]), dim=-1)
            logits = 12 * torch.einsum("bipc,bjqc->bijpq", d, d)[batch.match_valid]
            total = total + F.cross_entropy(logits, batch.match[batch.match_valid])
        return total / len(self.descriptors)


def attention_loss(taps: Taps, batch: Batch, special: int) -> Tensor:
    """Head 0 of each global block: a patch of frame i > 0 should look at the patch of frame 0 that shows it."""
    b, s = batch.images.shape[:2]
    valid = batch.match_valid[:, 1:, 0]
    if not bool(valid.any()):
        return batch.images.new_zeros(())
    target = batch.match[:, 1:, 0] + special  # token index inside frame 0
    total = batch.images.new_zeros(())
    for weights in taps.attention:
        tokens = weights.shape[1] // s
        rows = weights.view(b, s, tokens, -1)[:, 1:, special:]
        picked = rows.gather(-1, target[..., None])[..., 0]
        total = total - picked[valid].clamp_min(1e-8).log().mean()
    return total / len(taps.attention)


def dense_loss(model: nn.Module, levels: dict[int, Tensor], batch: Batch, sequence: Tensor, frame: Tensor) -> Tensor:
    """DPT depth and point losses on frame `frame[k]` of sequence `sequence[k]`, on the stride-2 pixels."""
    height, width = batch.images.shape[-2:]
    chosen = {k: v[sequence, frame] for k, v in levels.items()}
    depth, depth_conf = model.depth_head(chosen, height, width)
    points, points_conf = model.point_head(chosen, height, width)
    at = (slice(None), slice(None, None, STRIDE), slice(None, None, STRIDE))
    loss = confident((depth[..., 0][at] - batch.depth[sequence, frame]).abs(), depth_conf[at])
    return loss + confident((points[at] - batch.points[sequence, frame]).abs().sum(-1), points_conf[at])
