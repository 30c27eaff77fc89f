"""Camera head: iterative refinement of one pose encoding per frame (spec/vggt.md 1.7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.models.block import Block, Mlp
from qvggt.models.vggt.config import VGGTConfig

POSE_DIM = 9  # translation 3, quaternion xyzw 4, field of view (vertical, horizontal) 2


def activate_pose(raw: Tensor) -> Tensor:
    """Raw encoding [..., 9] to its output form: translation and quaternion linear, fields of view >= 0."""
    return torch.cat([raw[..., :7], F.relu(raw[..., 7:])], dim=-1)


class CameraHead(nn.Module):
    """Camera tokens [B, S, 2C] -> pose encodings, one [B, S, 9] per refinement iteration."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim = 2 * config.embed_dim
        self.iters = config.camera_iters
        self.trunk = nn.Sequential(
            *(
                Block(dim, config.camera_num_heads, config.mlp_ratio, config.layer_scale)
                for _ in range(config.camera_trunk_depth)
            )
        )
        self.token_norm = nn.LayerNorm(dim, eps=1e-5)
        self.token_rotation: nn.Linear | None = None  # only in folded models: out of the aggregator's rotated basis
        self.trunk_norm = nn.LayerNorm(dim, eps=1e-5)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_DIM))
        self.embed_pose = nn.Linear(POSE_DIM, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.pose_branch = Mlp(dim, dim // 2, POSE_DIM)

    def refine(self, tokens: Tensor, raw: Tensor | None) -> Tensor:
        """One iteration on normalised tokens [B, S, 2C]: the next raw encoding [B, S, 9]."""
        b, s, _ = tokens.shape
        source = self.empty_pose_tokens.expand(b, s, -1) if raw is None else raw
        shift, scale, gate = self.poseLN_modulation(self.embed_pose(source)).chunk(3, dim=-1)
        z = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
        delta = self.pose_branch(self.trunk_norm(self.trunk(z)))
        return delta if raw is None else raw + delta

    def forward(self, camera_tokens: Tensor) -> list[Tensor]:
        tokens = self.token_norm(camera_tokens)
        if self.token_rotation is not None:
            tokens = self.token_rotation(tokens)
        raw: Tensor | None = None
        poses = []
        for _ in range(self.iters):
            raw = self.refine(tokens, raw)  # feedback uses the raw encoding, not the activated one
            poses.append(activate_pose(raw))
        return poses
