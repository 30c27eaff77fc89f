"""VGGT: images to cameras, depth, points and tracks in one forward pass (spec/vggt.md 1.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from qvggt.models.dpt import DPTHead
from qvggt.models.network import Network
from qvggt.models.vggt.aggregator import Aggregator
from qvggt.models.vggt.camera_head import CameraHead
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.track_head import TrackHead


def at_least_fp32(x: Tensor) -> Tensor:
    """Half-precision tensors to fp32; fp32 and float64 pass unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class VGGT(Network):
    """The whole network with the original parameter names.

    Input: images [S, 3, H, W] or [B, S, 3, H, W], RGB in [0, 1], H and W multiples of the patch size.
    Output by head: `pose_enc` [B, S, 9] (camera-from-world, OpenCV axes; see qvggt.geometry), `depth`
    [B, S, H, W, 1], `depth_conf` [B, S, H, W], `world_points` [B, S, H, W, 3], `world_points_conf`
    [B, S, H, W]; with query points [N, 2] or [B, N, 2] (pixels of frame 0) also `track` [B, S, N, 2], `vis`, `conf`.
    """

    config: VGGTConfig

    def __init__(self, config: VGGTConfig | None = None) -> None:
        super().__init__()
        config = config or VGGTConfig()
        self.config = config

        def dense(out: int, activation: str) -> DPTHead:
            return DPTHead(config.dpt(config.dpt_features), config.dpt_head_channels, out, activation)

        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config) if "camera" in config.heads else None
        self.point_head = dense(4, "inv_log") if "point" in config.heads else None
        self.depth_head = dense(2, "exp") if "depth" in config.heads else None
        self.track_head = TrackHead(config) if "track" in config.heads else None

    def forward(self, images: Tensor, query_points: Tensor | None = None) -> dict[str, Tensor]:
        if images.dim() == 4:
            images = images[None]
        b, s, _, height, width = images.shape
        levels = self.aggregator(images)
        out: dict[str, Tensor] = {}
        # the heads stay in fp32 whatever the caller's autocast does to the aggregator
        with torch.autocast(images.device.type, enabled=False):
            if self.camera_head is not None:
                last = levels[self.config.aa_depth - 1]
                out["pose_enc"] = self.camera_head(at_least_fp32(last[:, :, 0]))[-1]
            flat = {k: at_least_fp32(v.flatten(0, 1)) for k, v in levels.items()}
            for head, value, confidence in (
                (self.depth_head, "depth", "depth_conf"),
                (self.point_head, "world_points", "world_points_conf"),
            ):
                if head is not None:
                    values, conf = head(flat, height, width)
                    out[value] = values.view(b, s, *values.shape[1:])
                    out[confidence] = conf.view(b, s, *conf.shape[1:])
            if self.track_head is not None and query_points is not None:
                if query_points.dim() == 2:
                    query_points = query_points[None]
                fp32 = {k: at_least_fp32(levels[k]) for k in self.config.dpt_layers}
                tracks, vis, conf = self.track_head(fp32, height, width, query_points)
                out.update(track=tracks[-1], vis=vis, conf=conf)
        return out
