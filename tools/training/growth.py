"""A trained network made twice as wide, the same function: every channel stands there twice, and is read by halves.

Both copies of a channel would get the same gradients for ever, so every matrix also gets noise that cancels between the
copies it reads: the function stays as it is, the copies part at the first step (Net2Net, Chen et al. 2016).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from qvggt.errors import QvggtError
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT


def grown(config: VGGTConfig, size: int | None = None) -> VGGTConfig:
    """Twice the width of every part, for images of `size` pixels (default: twice as large, too)."""
    return replace(
        config,
        img_size=size or 2 * config.img_size,
        embed_dim=2 * config.embed_dim,
        num_heads=2 * config.num_heads,
        camera_num_heads=2 * config.camera_num_heads,
        dpt_features=2 * config.dpt_features,
        dpt_out_channels=tuple(2 * width for width in config.dpt_out_channels),
        dpt_head_channels=2 * config.dpt_head_channels,
    )


@torch.no_grad()
def grow(source: VGGT, generator: torch.Generator, noise: float = 0.5, size: int | None = None) -> VGGT:
    """`source` twice as wide (config `grown`); on images of its size the same tokens and cameras, and nearly the same
    depth (the dense heads add position maps that depend on their width). `noise`: in units of a matrix's std.

    Positional embeddings are interpolated to the new grid, as VGGT does with images of another size.
    """
    model = VGGT(grown(source.config, size))
    old = source.state_dict()
    for name, target in model.state_dict().items():
        target.copy_(_widened(name, old[name].float(), target.shape, noise, generator))
    return model


def _widened(name: str, value: Tensor, shape: torch.Size, noise: float, generator: torch.Generator) -> Tensor:
    if name.endswith("pos_embed"):
        value = _larger_grid(value, shape[1])
    reading = 0 if ".resize_layers.0" in name or ".resize_layers.1" in name else 1  # transposed convolutions
    is_matrix = value.dim() in (2, 4) and not name.endswith(("mask_token", "token"))
    for axis, (small, large) in enumerate(zip(value.shape, shape, strict=True)):
        if small == large:
            continue
        if large != 2 * small:
            raise QvggtError(f"growth of {name}: expected twice {tuple(value.shape)}, got {tuple(shape)}")
        copies = _copies(name, axis, small)
        wide = value.index_select(axis, copies)
        if is_matrix and axis == reading:
            wide = wide / 2
            extra = noise * value.std() / 2 * torch.randn(value.shape, generator=generator)
            signs = torch.ones(2 * small).view(_parts(name, axis), 2, -1)
            signs[:, 1] = -1
            wide += extra.index_select(axis, copies) * signs.flatten().view(
                [-1 if a == axis else 1 for a in range(wide.dim())]
            )
        value = wide
    return value


def _copies(name: str, axis: int, width: int) -> Tensor:
    """Which old channel each new one is a copy of; what lies side by side (q, k, v; frame and global) stays so."""
    each = torch.arange(width).view(_parts(name, axis), -1)
    return torch.cat([each, each], dim=1).flatten()


def _parts(name: str, axis: int) -> int:
    if ".qkv." in name and axis == 0:
        return 3
    if "poseLN_modulation" in name and axis == 0:
        return 6  # shift, scale and gate of a stream that is [frame, global]
    inner = (".fc1." in name and axis == 0) or (name.endswith(("fc2.weight", "proj.weight")) and axis == 1)
    if name.startswith("camera_head"):
        return 1 if inner else 2
    return 2 if "_head.norm." in name or (".projects." in name and axis == 1) else 1


def _larger_grid(embedding: Tensor, count: int) -> Tensor:
    """pos_embed [1, 1 + n*n, C] -> [1, count, C]: the class token's own, then the patches' grid, bicubic."""
    old, new = round((embedding.shape[1] - 1) ** 0.5), round((count - 1) ** 0.5)
    if old == new:
        return embedding
    grid = embedding[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([embedding[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
