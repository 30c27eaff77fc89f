"""Three blocks of VGGT-1B's width with random weights: the shapes that builders see at full scale, in a second."""

from __future__ import annotations

import torch

from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT

CONFIG = VGGTConfig(
    img_size=56,
    vit_depth=1,
    aa_depth=1,
    layer_scale=1.0,
    dpt_features=32,
    dpt_out_channels=(32, 32, 32, 32),
    dpt_layers=(0, 0, 0, 0),
    heads=("depth",),
)
SIZE = 56
OUTPUTS = ("depth",)


def slice_1b(seed: int = 0, **changes: object) -> VGGT:
    """One encoder, frame and global block of width 1024 with 16 heads, a narrow depth head; `changes` to CONFIG."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VGGT(CONFIG.replace(**changes)).requires_grad_(False).eval()
