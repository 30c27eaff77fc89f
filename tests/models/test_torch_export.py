"""torch.export with a symbolic frame count at a fixed image size: one program for every number of frames."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.models.vggt.track_head import TrackHead


def images(frames: int) -> torch.Tensor:
    return torch.rand(1, frames, 3, 28, 42, generator=torch.Generator().manual_seed(frames))


FRAMES = torch.export.Dim("frames", min=2, max=64)


@pytest.fixture(scope="module")
def exported(small_model: VGGT) -> torch.nn.Module:
    with torch.no_grad():
        return torch.export.export(small_model, (images(3),), dynamic_shapes=({1: FRAMES},)).module()


@pytest.mark.parametrize("frames", [2, 3, 5, 8, 10])
def test_exported_program_equals_eager(small_model: VGGT, exported: torch.nn.Module, frames: int) -> None:
    x = images(frames)
    got, expected = exported(x), small_model(x)
    assert got.keys() == expected.keys() == {"pose_enc", "depth", "depth_conf", "world_points", "world_points_conf"}
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], atol=1e-6, rtol=1e-6)


def test_track_head_exports_for_any_frames_and_points(tiny_track_config: VGGTConfig) -> None:
    torch.manual_seed(0)
    track = dataclasses.replace(tiny_track_config.track, depth=1, iters=1, corr_levels=2)
    head = TrackHead(tiny_track_config.replace(track=track)).eval()

    class Tracks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, tokens: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, ...]:
            tracks, vis, conf = self.head({0: tokens[0], 1: tokens[1]}, 28, 42, points)
            return tracks[-1], vis, conf

    def inputs(frames: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(2, 1, frames, 5 + 6, 64), torch.rand(1, count, 2) * 28

    dims = ({2: FRAMES}, {1: torch.export.Dim("points", min=1, max=64)})
    program = torch.export.export(Tracks(), inputs(3, 4), dynamic_shapes=dims).module()
    for frames, count in ((2, 1), (5, 2), (10, 7)):
        x = inputs(frames, count)
        for got, expected in zip(program(*x), Tracks()(*x), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
