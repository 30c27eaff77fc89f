"""How frames travel through the model: any count, batches, chunks, kept rounds."""

from __future__ import annotations

import pytest
import torch

from qvggt.models.dpt import FRAMES_PER_CHUNK
from qvggt.models.vggt.aggregator import Aggregator
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.models.vggt.track_head import TrackFeatures


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", range(1, 11))
def test_any_frame_count(small_model: VGGT, frames: int) -> None:
    out = small_model(images(1, frames, 3, 28, 42))
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "pose_enc": (1, frames, 9),
        "depth": (1, frames, 28, 42, 1),
        "depth_conf": (1, frames, 28, 42),
        "world_points": (1, frames, 28, 42, 3),
        "world_points_conf": (1, frames, 28, 42),
    }
    assert all(v.isfinite().all() for v in out.values())
    assert (out["depth"] > 0).all()
    assert (out["depth_conf"] >= 1).all()
    assert (out["world_points_conf"] >= 1).all()


def test_four_dimensional_input_is_a_batch_of_one(small_model: VGGT) -> None:
    x = images(3, 3, 42, 28)
    flat, batched = small_model(x), small_model(x[None])
    assert flat.keys() == batched.keys()
    assert all(torch.equal(flat[k], batched[k]) for k in flat)


def test_scenes_of_a_batch_are_independent(small_model: VGGT) -> None:
    x = images(2, 3, 3, 28, 28)
    both = small_model(x)
    for i in range(2):
        close({k: v[i : i + 1] for k, v in both.items()}, small_model(x[i : i + 1]))


def test_only_the_first_frame_is_special(small_model: VGGT) -> None:
    """Swapping two later frames swaps their outputs; swapping with frame 0, the reference, does not."""
    x = images(1, 4, 3, 28, 28)
    out = small_model(x)
    later, first = [0, 1, 3, 2], [1, 0, 2, 3]
    close({k: v[:, later] for k, v in out.items()}, small_model(x[:, later]))
    assert (small_model(x[:, first])["pose_enc"] - out["pose_enc"][:, first]).abs().max() > 1e-3


def test_forward_is_deterministic(small_model: VGGT) -> None:
    x = images(1, 10, 3, 28, 28)
    first, second = small_model(x), small_model(x)
    assert all(torch.equal(first[k], second[k]) for k in first)


def levels(frames: int) -> dict[int, torch.Tensor]:
    noise = torch.randn(4, frames, 5 + 6, 128, generator=torch.Generator().manual_seed(frames))
    return dict(enumerate(noise))


@pytest.mark.parametrize("frames", [FRAMES_PER_CHUNK, FRAMES_PER_CHUNK + 1, 10, 17])
def test_dpt_chunks_change_nothing(small_model: VGGT, frames: int) -> None:
    head = small_model.depth_head
    tokens = levels(frames)
    whole = head(tokens, 28, 42)
    parts = [
        head({k: v[i : i + FRAMES_PER_CHUNK] for k, v in tokens.items()}, 28, 42)
        for i in range(0, frames, FRAMES_PER_CHUNK)
    ]
    for got, chunks in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(got, torch.cat(chunks))
    unchunked = head.activate(head.scratch.output_conv2(head.features(tokens, 28, 42, 28, 42)))
    for got, expected in zip(whole, unchunked, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


def test_track_chunks_change_nothing(tiny_track_config: VGGTConfig) -> None:
    extractor = TrackFeatures(tiny_track_config).eval()
    tokens = {k: v[..., :64] for k, v in levels(10).items()}
    whole = extractor(tokens, 28, 42)
    assert whole.shape == (10, 8, 14, 21)
    parts = [extractor({k: v[i:j] for k, v in tokens.items()}, 28, 42) for i, j in ((0, 8), (8, 10))]
    assert torch.equal(whole, torch.cat(parts))
    torch.testing.assert_close(whole, extractor.features(tokens, 28, 42, 14, 21), atol=1e-6, rtol=1e-6)


def test_aggregator_keeps_only_what_heads_read() -> None:
    config = VGGTConfig(
        img_size=28, embed_dim=16, num_heads=2, vit_depth=1, aa_depth=6, dpt_layers=(0, 2, 2, 3), heads=("camera",)
    )
    aggregator = Aggregator(config).eval()
    x = images(1, 2, 3, 28, 28)
    kept = aggregator(x)
    assert sorted(kept) == [0, 2, 3, 5]
    assert all(v.shape == (1, 2, 5 + 4, 32) for v in kept.values())
    aggregator.kept = tuple(range(6))
    every = aggregator(x)
    assert all(torch.equal(kept[k], every[k]) for k in kept)
