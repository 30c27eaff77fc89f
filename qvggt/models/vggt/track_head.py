"""Track head: token levels and query points to point tracks (spec/track_head.md)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.models.dpt import DPTFeatures
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.tracker import Tracker


class TrackFeatures(DPTFeatures):
    """DPT without the output convolutions: token levels [N, P, 2C] -> maps [N, features, h, w].

    One map pixel covers `stride` image pixels, counted in whole patches: h = patch * floor(H / patch) / stride.
    """

    def __init__(self, config: VGGTConfig) -> None:
        track = config.track
        super().__init__(config.dpt(track.features), track.features)
        self.stride = track.stride

    def forward(self, levels: Mapping[int, Tensor], height: int, width: int) -> Tensor:
        rows, cols = (size // self.patch_size * self.patch_size // self.stride for size in (height, width))
        return self.chunked(levels, lambda part: (self.features(part, height, width, rows, cols),))[0]


class TrackHead(nn.Module):
    """Feature extractor and tracker under the checkpoint's names."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.feature_extractor = TrackFeatures(config)
        self.tracker = Tracker(config.track)

    def forward(
        self,
        levels: Mapping[int, Tensor],
        height: int,
        width: int,
        query_points: Tensor,
        iters: int | None = None,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Tracks of `query_points` through the frames of an image stack of height x width pixels.

        levels: aggregator round -> tokens [B, S, P, 2C]. query_points: [B, N, 2], (x, y) pixels of frame 0, N >= 1.
        Returns the positions after each of `iters` iterations (default: the config's), a list of [B, S, N, 2] in
        pixels, unclamped, and visibility and confidence [B, S, N] in 0..1.
        Raises QvggtError for queries of another shape and for images too small for the correlation pyramid.
        """
        b, s = levels[self.feature_extractor.layers[0]].shape[:2]
        shape = tuple(query_points.shape)
        if len(shape) != 3 or shape[0] != b or shape[1] < 1 or shape[2] != 2:
            raise QvggtError(
                f"query_points: expected shape [{b}, N, 2] with N >= 1, got {list(shape)}; pass (x, y) pixels"
            )
        flat = {k: levels[k].flatten(0, 1) for k in self.feature_extractor.layers}
        maps = self.feature_extractor(flat, height, width)
        return self.tracker(maps.unflatten(0, (b, s)), query_points, iters)
