"""Small float64 models whose every part matters, and the distance between two sets of outputs."""

from __future__ import annotations

import torch
from reference_weights import fill

from qvggt.models.vggt.config import TrackConfig, VGGTConfig
from qvggt.models.vggt.network import VGGT

TRACK = TrackConfig(features=8, iters=2, corr_levels=2, hidden_size=16, depth=1, num_heads=2, virtual_tracks=3)
OUTPUTS = {"pose_enc", "depth", "depth_conf", "world_points", "world_points_conf"}
TRACKS = {"track", "vis", "conf"}


def config(dim: int, num_heads: int, **changes: object) -> VGGTConfig:
    """A VGGT with every head and a square position grid of 4 x 4 patches."""
    small = VGGTConfig(
        img_size=56,
        embed_dim=dim,
        vit_depth=2,
        aa_depth=3,
        num_heads=num_heads,
        mlp_ratio=2,
        camera_trunk_depth=1,
        camera_num_heads=4,
        camera_iters=2,
        dpt_features=8,
        dpt_out_channels=(8, 8, 12, 16),
        dpt_layers=(0, 1, 1, 2),
        dpt_head_channels=4,
        track=TRACK,
    )
    return small.replace(**changes)


def model(settings: VGGTConfig, seed: int = 0) -> VGGT:
    """The reference weights, but norm gains between 0.4 and 2.5 and biases of that order: nothing is an identity."""
    network = VGGT(settings).double()
    fill(network)
    return stir_norms_(network, seed, 2.5, 0.5)


def stir_norms_(network: VGGT, seed: int, gain: float, bias: float) -> VGGT:
    """Gains of all norms between 1 / gain and gain, biases of the size of `bias`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.LayerNorm) and module.elementwise_affine:
                module.weight.copy_(gain ** (2 * torch.rand(module.weight.shape, generator=generator) - 1))
                module.bias.copy_(bias * torch.randn(module.bias.shape, generator=generator))
    return network


def images(frames: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames + height + width)
    return torch.rand(frames, 3, height, width, generator=generator).to(dtype)


def distances(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest difference of each output, relative to its largest value."""
    assert got.keys() == expected.keys()
    return {k: float((got[k] - v).abs().max() / v.abs().max()) for k, v in expected.items()}
