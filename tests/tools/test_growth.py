"""A network made twice as wide is the same function, and its copied channels part when it learns."""

from __future__ import annotations

import pytest
import torch
from small_network import SIZE, small_model
from training import growth

from qvggt.models.vggt.network import VGGT

pytestmark = pytest.mark.usefixtures("one_thread")


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float(((found - truth).norm() / truth.norm()).detach())


@pytest.fixture(scope="module")
def pair() -> tuple[VGGT, VGGT]:
    source = small_model(seed=2)
    return source, growth.grow(source, torch.Generator().manual_seed(0), size=source.config.img_size)


def test_same_tokens_and_cameras(pair: tuple[VGGT, VGGT]) -> None:
    source, model = pair
    width = source.config.embed_dim
    images = torch.rand(2, 3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    truth, found = (network.aggregator(images) for network in pair)
    for level, tokens in truth.items():
        for half, start in enumerate((0, width, 2 * width, 3 * width)):
            stream = tokens[..., half // 2 * width : (half // 2 + 1) * width]
            assert relative(found[level][..., start : start + width], stream) < 1e-5
    poses = [network(images)["pose_enc"] for network in pair]
    assert relative(poses[1], poses[0]) < 1e-5
    assert model.config.embed_dim == 2 * width


def test_copies_get_gradients_of_their_own(pair: tuple[VGGT, VGGT]) -> None:
    _, model = pair
    model = growth.grow(pair[0], torch.Generator().manual_seed(0), size=SIZE).requires_grad_(True)
    images = torch.rand(1, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    model(images)["pose_enc"].square().sum().backward()
    first, second = model.aggregator.frame_blocks[0].mlp.fc1.weight.grad.chunk(2)
    assert relative(first, second) > 0.1


def test_larger_images_get_interpolated_positions() -> None:
    source = small_model(seed=2)
    source.aggregator.patch_embed.pos_embed.data.normal_(1.0, generator=torch.Generator().manual_seed(3))
    model = growth.grow(source, torch.Generator().manual_seed(0))
    assert model.config.img_size == 2 * source.config.img_size
    old, new = (network.aggregator.patch_embed.pos_embed for network in (source, model))
    assert new.shape[1] - 1 == 4 * (old.shape[1] - 1)
    assert relative(new[:, 1:].mean(1)[:, : old.shape[2]], old[:, 1:].mean(1)) < 0.2
