"""Names, shapes and parameter counts of the released VGGT-1B checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from qvggt.errors import QvggtError
from qvggt.models.vggt.config import VGGT_1B, TrackConfig, VGGTConfig
from qvggt.models.vggt.network import VGGT

RELEASED = json.loads((Path(__file__).parents[1] / "data" / "vggt_1b_state_dict.json").read_text())


@pytest.fixture(scope="module")
def shapes() -> dict[str, list[int]]:
    with torch.device("meta"):
        return {name: list(value.shape) for name, value in VGGT(VGGT_1B).state_dict().items()}


def test_names_and_shapes(shapes: dict[str, list[int]]) -> None:
    assert len(shapes) == 1797
    assert shapes == RELEASED["shapes"]
    assert sum(name.startswith("track_head.") for name in shapes) == 394


def test_parameter_counts(shapes: dict[str, list[int]]) -> None:
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    assert sum(sizes.values()) == RELEASED["total_params"] == 1_256_537_516
    for part, count in RELEASED["params_per_part"].items():
        assert sum(size for name, size in sizes.items() if name.startswith(part)) == count, part


def test_heads_are_optional() -> None:
    with torch.device("meta"):
        model = VGGT(VGGT_1B.replace(heads=("camera",)))
    assert {name.split(".")[0] for name in model.state_dict()} == {"aggregator", "camera_head"}


def test_config_survives_json() -> None:
    config = VGGTConfig(embed_dim=64, num_heads=4, heads=("depth", "track"), track=TrackConfig(features=16, depth=3))
    assert VGGTConfig.from_dict(json.loads(config.to_json())) == config


@pytest.mark.parametrize(
    ("track", "word"),
    [({"features": 30}, "features 30"), ({"hidden_size": 100}, "hidden_size 100"), ({"radius": 3}, r"track\.radius")],
)
def test_bad_track_config(track: dict[str, int], word: str) -> None:
    with pytest.raises(QvggtError, match=word):
        VGGTConfig.from_dict({"track": track})


def test_norm_epsilons() -> None:
    """1e-6 in the patch encoder and the camera's modulated norm, 1e-5 everywhere else: too small a slip to measure."""
    with torch.device("meta"):
        model = VGGT(VGGT_1B)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm | torch.nn.GroupNorm):
            fine = name.startswith("aggregator.patch_embed.") or name == "camera_head.adaln_norm"
            assert module.eps == (1e-6 if fine else 1e-5), name
