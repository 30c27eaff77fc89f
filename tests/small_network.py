"""A VGGT of a few hundred thousand random weights, for tests of what happens around the network."""

from __future__ import annotations

import torch

from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT

CONFIG = VGGTConfig(
    img_size=56,
    embed_dim=64,
    vit_depth=1,
    aa_depth=4,
    num_heads=4,
    layer_scale=1.0,
    camera_trunk_depth=1,
    camera_num_heads=4,
    dpt_features=16,
    dpt_out_channels=(8, 16, 32, 32),
    dpt_layers=(0, 1, 2, 3),
    heads=("camera", "point", "depth"),
)
SIZE = 56


def small_model(seed: int = 0, **changes: object) -> VGGT:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VGGT(CONFIG.replace(**changes)).requires_grad_(False).eval()
