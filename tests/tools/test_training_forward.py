"""The forward pass of training is the network's own with bf16 products, and leaves the network as it was."""

from __future__ import annotations

import pytest
import torch
from small_network import SIZE, small_model
from training.forward import Taps, aggregate, cameras

pytestmark = pytest.mark.usefixtures("one_thread")


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float(((found - truth).norm() / truth.norm()).detach())


def test_only_rounding_apart_and_put_back() -> None:
    model = small_model(seed=1).requires_grad_(True)
    images = torch.rand(2, 3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    taps, last = Taps(), model.config.aa_depth - 1
    levels = aggregate(model, images, taps)
    poses = cameras(model, levels[last][:, :, 0])
    truth = model.aggregator(images)
    assert levels.keys() == truth.keys()
    assert all(0 < relative(levels[i], truth[i]) < 0.02 for i in truth)
    for found, true in zip(poses, model.camera_head(levels[last][:, :, 0]), strict=True):
        assert 0 < relative(found, true) < 0.05
    assert torch.equal(taps.frame_tokens[last], levels[last][..., : model.config.embed_dim])
    assert len(taps.attention) == len(taps.frame_tokens) == model.config.aa_depth
    torch.testing.assert_close(taps.attention[0].sum(-1), torch.ones(taps.attention[0].shape[:2]))
    poses[-1].sum().backward()
    assert model.aggregator.patch_embed.blocks[0].attn.qkv.weight.grad is not None
    assert not any("forward" in vars(module) for module in model.modules())
