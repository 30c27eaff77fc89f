"""Alternating frame/global attention over all frames (spec/vggt.md 1.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qvggt.models.block import Block
from qvggt.models.rope import rope_tables
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.vit import VisionTransformer

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class Aggregator(nn.Module):
    """Images [B, S, 3, H, W] in [0, 1] -> {round: tokens [B, S, P, 2C]} for the rounds in `kept`.

    P = 1 camera token + registers + h*w patches. A round's output is the frame block's output beside the
    global block's. Only the rounds a head reads are kept (45 instead of 270 MB a frame at 1B, 518 x 518).
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.config = config
        self.kept = tuple(sorted({*config.dpt_layers, config.aa_depth - 1}))
        self.patch_embed = VisionTransformer(config)
        self.patch_rotation: nn.Linear | None = None  # only in folded models: into the aggregator's rotated basis
        # index 0 of axis 1 belongs to the first frame, index 1 to every other one
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, config.num_register_tokens, dim))

        def block() -> Block:
            return Block(dim, config.num_heads, config.mlp_ratio, config.layer_scale, qk_norm=True)

        self.frame_blocks = nn.ModuleList(block() for _ in range(config.aa_depth))
        self.global_blocks = nn.ModuleList(block() for _ in range(config.aa_depth))

    def rope(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """RoPE tables [P, head_dim] for one frame of height x width pixels."""
        config = self.config
        return rope_tables(
            height // config.patch_size,
            width // config.patch_size,
            config.embed_dim // config.num_heads,
            config.patch_start,
            config.rope_base,
            device,
        )

    def normalise(self, images: Tensor) -> Tensor:
        """Images [B, S, 3, H, W] in [0, 1] -> what the patch encoder takes, [B*S, 3, H, W]."""
        mean, std = (torch.tensor(v).view(3, 1, 1).to(self.camera_token) for v in (IMAGE_MEAN, IMAGE_STD))
        return ((images - mean) / std).flatten(0, 1)

    def join(self, patches: Tensor, b: int, s: int) -> Tensor:
        """Patch tokens [B*S, h*w, C] -> token stream before the first round, [B, S, P, C]."""
        if self.patch_rotation is not None:
            patches = self.patch_rotation(patches)
        special = torch.cat([self.camera_token, self.register_token], dim=2)  # [1, 2, 5, C]
        # row 0 for the first frame, row 1 for the others; a shape of s - 1 would make torch.export refuse s = 2
        special = special[:, torch.arange(s, device=patches.device).clamp(max=1)].expand(b, -1, -1, -1)
        return torch.cat([special.to(patches.dtype), patches.view(b, s, *patches.shape[1:])], dim=2)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        b, s, _, height, width = images.shape
        tokens = self.join(self.patch_embed(self.normalise(images)), b, s)
        _, _, p, c = tokens.shape
        rope = self.rope(height, width, tokens.device)
        kept: dict[int, Tensor] = {}
        for i, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            frame = frame_block(tokens.view(b * s, p, c), rope)
            tokens = global_block(frame.view(b, s * p, c), rope)
            if i in self.kept:
                kept[i] = torch.cat([frame.view(b, s, p, c), tokens.view(b, s, p, c)], dim=-1)
        return kept
