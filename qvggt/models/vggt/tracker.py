"""Iterative point tracker on dense feature maps (spec/track_head.md sections 4-9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.models.block import Mlp
from qvggt.models.vggt.config import TrackConfig
from qvggt.models.vggt.track_blocks import UpdateTransformer
from qvggt.models.vggt.track_sampling import correlation, flow_embedding, place_embedding, pyramid, sample


class Tracker(nn.Module):
    """Feature maps [B, S, C, h, w] and query points -> tracks, visibility, confidence.

    Queries [B, N, 2] are (x, y) pixels of frame 0; one feature-map pixel is `config.stride` image pixels.
    """

    def __init__(self, config: TrackConfig) -> None:
        super().__init__()
        self.config = config
        features = config.features
        window = (2 * config.corr_radius + 1) ** 2
        self.query_ref_token = nn.Parameter(torch.randn(1, 2, 3 * features + 4))
        self.corr_mlp = Mlp(config.corr_levels * window, config.hidden_size, features)
        self.updateformer = UpdateTransformer(config)
        self.fmap_norm = nn.LayerNorm(features, eps=1e-5)
        self.ffeat_norm = nn.GroupNorm(1, features, eps=1e-5)
        self.ffeat_updater = nn.Sequential(nn.Linear(features, features), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(features, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(features, 1))

    def check_maps(self, rows: int, cols: int) -> None:
        """Raise QvggtError when a rows x cols map is too small for the correlation pyramid."""
        least = 2 ** (self.config.corr_levels - 1)
        if min(rows, cols) < least:
            raise QvggtError(
                f"track head: feature map {rows} x {cols} is smaller than {least} x {least}, which "
                f"{self.config.corr_levels} correlation levels need; use larger images or drop the track head"
            )

    def states(self, maps: list[Tensor], features: Tensor, coords: Tensor, place: Tensor) -> Tensor:
        """Transformer input [B, N, S, 3C+4] from features [B, S, N, C], coords [B, S, N, 2], place [B, N, 3C+4]."""
        b, s, n, c = features.shape
        flow = coords - coords[:, :1]
        near = correlation(maps, features.flatten(0, 1), coords.flatten(0, 1), self.config.corr_radius)
        scaled = flow / self.config.max_scale
        states = torch.cat(
            [flow_embedding(flow, c // 2), scaled, scaled, self.corr_mlp(near).view(b, s, n, c), features], dim=-1
        )
        token = self.query_ref_token[:, torch.arange(s, device=coords.device).clamp(max=1)]  # row 1 after frame 0
        return states.transpose(1, 2) + place[:, :, None] + token[:, None]

    def forward(
        self, maps: Tensor, query_points: Tensor, iters: int | None = None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Positions after each iteration (list of [B, S, N, 2], image pixels), visibility and confidence [B, S, N].

        Frame 0 holds the queries in every iteration. Visibility and confidence are probabilities.
        """
        _, s, c, rows, cols = maps.shape
        self.check_maps(rows, cols)
        maps = self.fmap_norm(maps.movedim(2, -1)).movedim(-1, 2)
        levels = pyramid(maps.flatten(0, 1), self.config.corr_levels)
        start = query_points.to(maps.dtype) / self.config.stride  # [B, N, 2], feature-map pixels
        first = sample(maps[:, 0], start[:, :, None], "border")[..., 0].transpose(1, 2)  # [B, N, C]
        features = first[:, None].expand(-1, s, -1, -1)
        coords = start[:, None].expand(-1, s, -1, -1)
        place = place_embedding(start, rows, cols, 3 * c + 4)
        pinned = (torch.arange(s, device=maps.device) == 0)[:, None, None]  # [S, 1, 1]
        tracks = []
        for _ in range(self.config.iters if iters is None else iters):
            coords = coords.detach()  # no gradient through the sampling positions
            update = self.updateformer(self.states(levels, features, coords, place)).transpose(1, 2)
            step = update[..., 2:].reshape(-1, c)
            features = features + self.ffeat_updater(self.ffeat_norm(step)).view(features.shape)
            coords = torch.where(pinned, start[:, None], coords + update[..., :2])
            tracks.append(coords * self.config.stride)
        visibility = self.vis_predictor(features).sigmoid()[..., 0]
        return tracks, visibility, self.conf_predictor(features).sigmoid()[..., 0]
