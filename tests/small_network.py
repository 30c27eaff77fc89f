"""A VGGT of a few hundred thousand random weights, for tests of what happens around the network, and its inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qvggt.calib.rtn import quantize_rtn_
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.quant.scheme import Scheme

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


def small_rounded(scheme: Scheme, batches: list[torch.Tensor] | None = None, seed: int = 0) -> VGGT:
    model = small_model(seed)
    quantize_rtn_(model, scheme, batches, progress=False)
    return model


def small_images(frames: int, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    """Random pixels [frames, 3, size, size]."""
    return small_batches(frames, seed=seed, size=size)[0]


def small_batches(*frames: int, seed: int = 0, size: int = SIZE) -> list[torch.Tensor]:
    """Random pixels of sequences of so many frames."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, 3, size, size, generator=generator) for count in frames]


def small_pixels(frames: int) -> NDArray[np.float32]:
    """Random pixels [frames, 3, SIZE, SIZE] for a runner."""
    return np.random.default_rng(frames).random((frames, 3, SIZE, SIZE), np.float32)


def small_scenes(root: Path, frames: int, train: range, test: range, category: str = "synthetic") -> None:
    """Rendered scenes of SIZE pixels in the layout of CO3D, by their seeds."""
    from qvggt.data.co3d_writer import write_co3d
    from qvggt.data.synthetic.scene import SceneConfig

    config = SceneConfig(height=SIZE, width=SIZE, frames=frames)
    write_co3d(root, config, train, test, category=category, progress=False)
