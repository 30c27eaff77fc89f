from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from reference_weights import fill
from safetensors import safe_open

from qvggt.models.vggt.config import TrackConfig, VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.models.vggt.track_head import TrackHead

DATA = Path(__file__).parents[1] / "data"


class Golden:
    """A safetensors file with JSON metadata."""

    def __init__(self, name: str) -> None:
        self.file = safe_open(DATA / name, "pt")
        self.config = json.loads(self.file.metadata()["config"])
        self.shapes = {k: tuple(v) for k, v in json.loads(self.file.metadata()["shapes"]).items()}

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.file.get_tensor(key)


@pytest.fixture(autouse=True)
def alone(one_thread: None, no_grad: None) -> None:
    """Every test here."""


@pytest.fixture(scope="session")
def small_golden() -> Golden:
    return Golden("vggt_reference_small.safetensors")


@pytest.fixture(scope="session")
def small_model(small_golden: Golden) -> VGGT:
    """The reduced VGGT of the reference file, with its weights."""
    config = VGGTConfig.from_dict(dict(small_golden.config, camera_num_heads=4, heads=("camera", "point", "depth")))
    return fill(VGGT(config))


@pytest.fixture(scope="session")
def track_golden() -> Golden:
    return Golden("track_head_reference.safetensors")


@pytest.fixture(scope="session")
def track_head(track_golden: Golden) -> TrackHead:
    """The reduced track head of the reference file, with its weights, in float64."""
    given = track_golden.config
    track = TrackConfig(
        **{
            k: given[k]
            for k in ("features", "iters", "stride", "corr_levels", "corr_radius", "hidden_size", "max_scale")
        }
    )
    config = VGGTConfig(embed_dim=given["dim_in"] // 2, num_heads=4, patch_size=given["patch_size"], track=track)
    return fill(TrackHead(config), "track_head.").double()


@pytest.fixture(scope="session")
def tiny_track_config() -> VGGTConfig:
    """A whole VGGT with every head, small enough to build and run in milliseconds."""
    return VGGTConfig(
        img_size=56,
        embed_dim=32,
        vit_depth=1,
        aa_depth=2,
        num_heads=2,
        camera_trunk_depth=1,
        camera_num_heads=2,
        dpt_features=8,
        dpt_out_channels=(8, 8, 8, 8),
        dpt_layers=(0, 0, 1, 1),
        dpt_head_channels=4,
        track=TrackConfig(features=8, iters=2, corr_levels=3, hidden_size=16, depth=2, num_heads=2, virtual_tracks=3),
    )
