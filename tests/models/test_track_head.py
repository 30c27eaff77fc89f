"""Track head: the original's tensors in float64, the score window spelled out, and what must not matter."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt.errors import QvggtError
from qvggt.models.vggt.config import TrackConfig, VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.models.vggt.track_blocks import CrossBlock, SelfBlock, UpdateTransformer
from qvggt.models.vggt.track_head import TrackHead
from qvggt.models.vggt.track_sampling import correlation, pyramid, sample
from qvggt.models.vggt.tracker import Tracker

HEIGHT, WIDTH = 84, 112
LAYERS = (4, 11, 17, 23)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 1e-10 of the largest value."""
    torch.testing.assert_close(actual, expected, atol=1e-10 * float(expected.abs().max()), rtol=0)


def test_names_and_shapes(track_head: TrackHead, track_golden: Any) -> None:
    shapes = {f"track_head.{k}": tuple(v.shape) for k, v in track_head.state_dict().items()}
    assert shapes == track_golden.shapes


def test_reference_outputs(track_head: TrackHead, track_golden: Any) -> None:
    levels = {k: track_golden[f"tokens_{k}"].double() for k in LAYERS}
    queries = track_golden["query_points"]
    tracks, vis, conf = track_head(levels, HEIGHT, WIDTH, queries)
    assert len(tracks) == 3
    close(torch.stack(tracks), track_golden["coords_all"])
    close(vis, track_golden["visibility"])
    close(conf, track_golden["confidence"])
    assert all(torch.equal(t[:, 0], queries.double()) for t in tracks)


def test_reference_feature_maps(track_head: TrackHead, track_golden: Any) -> None:
    """One frame; the others stand behind the coordinates above, which 1e-8 of noise in the maps moves by 1e-5."""
    levels = {k: track_golden[f"tokens_{k}"].double()[:, 1] for k in LAYERS}
    close(track_head.feature_extractor(levels, HEIGHT, WIDTH), track_golden["feature_maps_frame_1"])


def maps(frames: int, batch: int = 1, channels: int = 8, rows: int = 14, cols: int = 21) -> torch.Tensor:
    return torch.randn(batch, frames, channels, rows, cols, generator=seeded(frames), dtype=torch.float64)


def points(count: int, batch: int = 1) -> torch.Tensor:
    """Queries in and around the 28 x 42 pixels that `maps` covers."""
    return torch.rand(batch, count, 2, generator=seeded(count), dtype=torch.float64) * 60 - 10


@pytest.fixture(scope="module")
def tracker(tiny_track_config: VGGTConfig) -> Tracker:
    """A small tracker in float64 with steps of about a pixel."""
    torch.manual_seed(0)
    tracker = Tracker(tiny_track_config.track)
    torch.nn.init.normal_(tracker.updateformer.flow_head.weight, std=0.3)
    return tracker.double().eval()


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (1, 5), (3, 1), (10, 3)])
def test_any_frame_and_point_count(tracker: Tracker, frames: int, count: int) -> None:
    queries = points(count)
    tracks, vis, conf = tracker(maps(frames), queries)
    assert [t.shape for t in tracks] == [(1, frames, count, 2)] * 2
    assert vis.shape == conf.shape == (1, frames, count)
    for value in (*tracks, vis, conf):
        assert value.isfinite().all()
    assert ((vis > 0) & (vis < 1) & (conf > 0) & (conf < 1)).all()
    assert torch.equal(tracks[-1][:, 0], queries)
    if frames > 1:
        assert (tracks[0][:, 1:] - queries[:, None]).abs().max() > 0.1


def test_no_iterations(tracker: Tracker) -> None:
    tracks, vis, _ = tracker(maps(2), points(3), iters=0)
    assert tracks == []
    assert vis.shape == (1, 2, 3)


def test_scenes_of_a_batch_are_independent(tracker: Tracker) -> None:
    grid, queries = maps(9, batch=2), points(3, batch=2)
    tracks, vis, conf = tracker(grid, queries)
    for i in range(2):
        alone = tracker(grid[i : i + 1], queries[i : i + 1])
        torch.testing.assert_close(tracks[-1][i], alone[0][-1][0], atol=1e-7, rtol=0)
        torch.testing.assert_close(vis[i], alone[1][0], atol=1e-7, rtol=0)
        torch.testing.assert_close(conf[i], alone[2][0], atol=1e-7, rtol=0)


@settings(deadline=None, max_examples=6)
@given(order=st.permutations(range(4)))
def test_order_of_queries_does_not_matter(tracker: Tracker, order: list[int]) -> None:
    with torch.no_grad():
        grid, queries = maps(3), points(4)
        tracks, vis, _ = tracker(grid, queries)
        shuffled = tracker(grid, queries[:, order])
    torch.testing.assert_close(shuffled[0][-1], tracks[-1][:, :, order], atol=1e-7, rtol=0)
    torch.testing.assert_close(shuffled[1], vis[..., order], atol=1e-7, rtol=0)


def test_coordinates_carry_no_gradient_across_iterations(tracker: Tracker) -> None:
    """A step's bias reaches the second position once, through its own step: stride pixels for each moving point."""
    with torch.enable_grad():
        (_, second), _, _ = tracker(maps(3), points(4))
        (gradient,) = torch.autograd.grad(second.sum(), tracker.updateformer.flow_head.bias)
    expected = torch.full((2,), tracker.config.stride * 2.0 * 4, dtype=torch.float64)
    torch.testing.assert_close(gradient[:2], expected)


@settings(deadline=None, max_examples=15)
@given(
    x=st.floats(-6, 16), y=st.floats(-6, 14), rows=st.integers(4, 9), cols=st.integers(4, 11), radius=st.integers(0, 2)
)
def test_correlation_is_a_window_of_the_score_volume(x: float, y: float, rows: int, cols: int, radius: int) -> None:
    """Section 5 number by number: x offset slow, y offset fast, levels fine to coarse, missing cells count 0.

    A position that rounding puts on the other side of a cell border changes nothing: the weights are continuous.
    """
    channels, side = 5, 2 * radius + 1
    grid = torch.randn(1, channels, rows, cols, generator=seeded(), dtype=torch.float64)
    feature = torch.randn(channels, generator=seeded(1), dtype=torch.float64)
    levels = pyramid(grid, 2)
    actual = correlation(levels, feature[None, None], torch.tensor([[[x, y]]], dtype=torch.float64), radius)[0, 0]
    assert actual.shape == (2 * side * side,)
    for level, cells in enumerate(levels):
        volume = torch.einsum("chw,c->hw", cells[0], feature) / channels**0.5
        height, width = volume.shape
        for ix in range(side):
            for iy in range(side):
                at_x, at_y = x / 2**level + ix - radius, y / 2**level + iy - radius
                left, top = int(at_x // 1), int(at_y // 1)
                expected = sum(
                    float(volume[v, u]) * (1 - abs(at_x - u)) * (1 - abs(at_y - v))
                    for u in (left, left + 1)
                    for v in (top, top + 1)
                    if 0 <= u < width and 0 <= v < height
                )
                assert float(actual[level * side * side + ix * side + iy]) == pytest.approx(expected, abs=1e-9)


def test_pyramid_drops_odd_edges() -> None:
    grid = torch.arange(35.0).view(1, 1, 5, 7)
    first, second, third = pyramid(grid, 3)
    assert torch.equal(first, grid)
    assert second.shape == (1, 1, 2, 3)
    assert second[0, 0, 0, 0] == (0 + 1 + 7 + 8) / 4
    assert third.shape == (1, 1, 1, 1)


def test_sample_at_cells_and_outside() -> None:
    grid = torch.arange(12.0).view(1, 1, 3, 4)
    at = torch.tensor([[[[0.0, 0.0], [3.0, 2.0], [1.5, 1.0], [-5.0, 9.0]]]])
    torch.testing.assert_close(sample(grid, at, "border")[0, 0, 0], torch.tensor([0.0, 11.0, 5.5, 8.0]))
    torch.testing.assert_close(sample(grid, at, "zeros")[0, 0, 0], torch.tensor([0.0, 11.0, 5.5, 0.0]))


def test_blocks_add_to_the_normalised_input() -> None:
    """With attention and MLP silent a block returns norm1(x), not x (section 7)."""
    x = torch.randn(2, 3, 8, generator=seeded()) * 5 + 1
    for block in (SelfBlock(8, 2, 4), CrossBlock(8, 2, 4)):
        for name, parameter in block.named_parameters():
            if "attn.out_proj" in name or "mlp.fc2" in name:
                torch.nn.init.zeros_(parameter)
        out = block(x) if isinstance(block, SelfBlock) else block(x, x[:, :1])
        torch.testing.assert_close(out, F.layer_norm(x, (8,)))


def test_points_meet_only_through_updated_virtual_tracks() -> None:
    torch.manual_seed(0)
    config = TrackConfig(features=8, hidden_size=16, num_heads=2, depth=1, virtual_tracks=3)
    transformer = UpdateTransformer(config).eval()
    tokens = torch.randn(1, 2 + 3, 1, 16)
    moved = tokens.clone()
    moved[:, 1] = torch.randn(1, 16)
    delta = (transformer.space(0, moved, 2) - transformer.space(0, tokens, 2)).abs().amax((0, 2, 3))
    assert (delta > 1e-4).all(), "a point must reach the other point and the virtual tracks within one step"
    for block in transformer.space_virtual2point_blocks:
        torch.nn.init.zeros_(block.cross_attn.out_proj.weight)
    delta = (transformer.space(0, moved, 2) - transformer.space(0, tokens, 2)).abs().amax((0, 2, 3))
    assert delta[0] == 0, "points must not attend to each other directly"


def test_fresh_initialisation(tiny_track_config: VGGTConfig) -> None:
    torch.manual_seed(0)
    state = TrackHead(tiny_track_config.replace(track=TrackConfig())).tracker.updateformer.state_dict()
    assert float(state["flow_head.weight"].std()) == pytest.approx(0.001, rel=0.1)
    assert float(state["virual_tracks"].std()) == pytest.approx(1, rel=0.1)
    assert not any(v.any() for k, v in state.items() if k.endswith("out_proj.bias"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_model(tiny_track_config: VGGTConfig, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = VGGT(tiny_track_config).to(dtype).eval()
    images = torch.rand(3, 3, 28, 42, dtype=dtype)
    queries = torch.tensor([[4.0, 5.0], [20.5, 7.25]])
    assert "track" not in model(images)
    out = model(images, queries)
    assert out["track"].shape == (1, 3, 2, 2)
    assert out["vis"].shape == out["conf"].shape == (1, 3, 2)
    assert out["track"].dtype == out["vis"].dtype == dtype
    assert torch.equal(out["track"][0, 0], queries.to(dtype))
    assert torch.equal(model(images[None], queries[None])["track"], out["track"])


def test_single_precision_stays_near_double(tiny_track_config: VGGTConfig) -> None:
    """With the fresh flow head points hardly move, so fp32 noise is not amplified (section 11)."""
    torch.manual_seed(0)
    head = TrackHead(tiny_track_config).eval()
    levels = {k: torch.randn(1, 3, 5 + 6, 64, generator=seeded(k)) for k in (0, 1)}
    single = head(levels, 28, 42, points(4).float())
    double = head.double()({k: v.double() for k, v in levels.items()}, 28, 42, points(4).float())
    torch.testing.assert_close(single[0][-1].double(), double[0][-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(single[1].double(), double[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(2, 2), (2, 3, 2), (1, 0, 2), (1, 3, 3)])
def test_bad_queries(tiny_track_config: VGGTConfig, shape: tuple[int, ...]) -> None:
    levels = {k: torch.zeros(1, 2, 5 + 6, 64) for k in (0, 1)}
    with pytest.raises(QvggtError, match=r"query_points: expected shape \[1, N, 2\]"):
        TrackHead(tiny_track_config)(levels, 28, 42, torch.zeros(shape))


def test_too_small_an_image(tiny_track_config: VGGTConfig) -> None:
    track = dataclasses.replace(tiny_track_config.track, corr_levels=5)
    levels = {k: torch.zeros(1, 1, 5 + 6, 64) for k in (0, 1)}
    with pytest.raises(QvggtError, match="feature map 14 x 21 is smaller than 16 x 16"):
        TrackHead(tiny_track_config.replace(track=track))(levels, 28, 42, torch.zeros(1, 1, 2))
