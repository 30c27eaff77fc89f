"""DINOv2-style vision transformer with register tokens: the patch encoder (spec/vggt.md 1.6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.models.block import Block
from qvggt.models.vggt.config import VGGTConfig

# Every norm of this stage uses 1e-6; the rest of the network uses 1e-5.
EPS = 1e-6


class PatchProjection(nn.Module):
    """Non-overlapping patches to tokens: [N, 3, H, W] -> [N, h*w, C], row-major."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Images [N, 3, H, W] (ImageNet-normalised) -> patch tokens [N, h*w, C] after the final LayerNorm."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim, grid = config.embed_dim, config.img_size // config.patch_size
        self.patch_size = config.patch_size
        self.num_registers = config.num_register_tokens
        self.patch_embed = PatchProjection(config.patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # in the checkpoint, unused at inference
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, config.mlp_ratio, config.vit_layer_scale, eps=EPS)
            for _ in range(config.vit_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def positions(self, height: int, width: int) -> Tensor:
        """Positional embedding [1, 1 + h*w, C] for an image of height x width pixels.

        Off the native square grid, the patch part is resized bicubically with antialiasing, in fp32 or wider.
        """
        rows, cols = height // self.patch_size, width // self.patch_size
        native = self.pos_embed.shape[1] - 1
        if rows * cols == native and rows == cols:
            return self.pos_embed
        side = int(native**0.5)
        wide = torch.promote_types(self.pos_embed.dtype, torch.float32)
        patches = self.pos_embed[:, 1:].to(wide).reshape(1, side, side, -1).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, size=(rows, cols), mode="bicubic", antialias=True, align_corners=False)
        patches = patches.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """Token stream before the first block, [N, 1 + registers + h*w, C]."""
        n, _, height, width = images.shape
        tokens = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(n, -1, -1), tokens], dim=1) + self.positions(height, width)
        # registers carry no position, so they join after the positions were added
        return torch.cat([tokens[:, :1], self.register_tokens.expand(n, -1, -1), tokens[:, 1:]], dim=1)

    def patches(self, tokens: Tensor) -> Tensor:
        """Token stream after the last block -> normalised patch tokens [N, h*w, C]."""
        return self.norm(tokens)[:, 1 + self.num_registers :]

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images)
        for block in self.blocks:
            tokens = block(tokens)
        return self.patches(tokens)
