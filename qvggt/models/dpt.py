"""Dense prediction head: four token levels fused into a full-resolution map (spec/vggt.md 1.8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FRAMES_PER_CHUNK = 8  # bounds memory
Levels = Mapping[int, Tensor]


def position_map(
    channels: int,
    rows: int,
    cols: int,
    aspect: float,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Sinusoidal map [1, channels, rows, cols], fp32, for a grid over an image of aspect width/height.

    First half of the channels encodes x, second half y; each half is all sines, then all cosines, of the
    coordinate times 100^(-j/(channels/4)), computed in float64. `dtype` is that of the grid's coordinates.
    """
    diagonal = (aspect * aspect + 1) ** 0.5
    quarter = channels // 4
    omega = 100.0 ** (-torch.arange(quarter, dtype=torch.float64, device=device) / quarter)

    def half(span: float, count: int) -> Tensor:
        edge = span * (count - 1) / count
        line = torch.linspace(-edge, edge, count, dtype=dtype, device=device).double()
        angle = line[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=-1).float()  # [count, channels / 2]

    x = half(aspect / diagonal, cols)[None].expand(rows, -1, -1)
    y = half(1 / diagonal, rows)[:, None].expand(-1, cols, -1)
    return torch.cat([x, y], dim=-1).permute(2, 0, 1)[None]


def add_position(x: Tensor, aspect: float) -> Tensor:
    """x [N, C, rows, cols] plus 0.1 times its position map.

    For float64 x the reference lays the grid out in float64 and still rounds map and product to fp32.
    """
    _, channels, rows, cols = x.shape
    return x + (0.1 * position_map(channels, rows, cols, aspect, x.device, x.dtype)).to(x.dtype)


def resize(x: Tensor, rows: int, cols: int) -> Tensor:
    return F.interpolate(x, size=(rows, cols), mode="bilinear", align_corners=True)


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions around a skip that carries relu(x), as in the reference (its in-place ReLU)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.conv2(F.relu(self.conv1(x))) + x


class FeatureFusion(nn.Module):
    """Add a lateral level, refine, resize, project."""

    def __init__(self, features: int, lateral: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualConvUnit(features) if lateral else None
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(self, path: Tensor, lateral: Tensor | None, rows: int, cols: int) -> Tensor:
        if self.resConfUnit1 is not None and lateral is not None:
            path = path + self.resConfUnit1(lateral)
        return self.out_conv(resize(self.resConfUnit2(path), rows, cols))


@dataclass(frozen=True)
class DPTConfig:
    """Sizes of the part all DPT heads share.

    dim: width of the tokens. features: channels of the fused map. out_channels: of the four levels, fine to coarse.
    layers: keys of the four token levels read. patch_start: index of a frame's first patch token. patch_size: pixels.
    """

    dim: int
    features: int
    out_channels: tuple[int, int, int, int]
    layers: tuple[int, int, int, int]
    patch_start: int
    patch_size: int


class DPTFeatures(nn.Module):
    """Token levels {layer: [N, P, dim]} -> position-encoded feature map [N, out_features, rows, cols]."""

    def __init__(self, config: DPTConfig, out_features: int) -> None:
        super().__init__()
        self.layers = config.layers
        self.patch_start = config.patch_start
        self.patch_size = config.patch_size
        self.norm = nn.LayerNorm(config.dim, eps=1e-5)
        self.projects = nn.ModuleList(nn.Conv2d(config.dim, c, 1) for c in config.out_channels)
        c0, c1, _, c3 = config.out_channels
        features = config.features
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(c0, c0, 4, stride=4),
                nn.ConvTranspose2d(c1, c1, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(c3, c3, 3, stride=2, padding=1),
            ]
        )
        self.scratch = nn.Module()
        for i, c in enumerate(config.out_channels, start=1):
            self.scratch.add_module(f"layer{i}_rn", nn.Conv2d(c, features, 3, padding=1, bias=False))
            self.scratch.add_module(f"refinenet{i}", FeatureFusion(features, lateral=i < 4))
        self.scratch.add_module("output_conv1", nn.Conv2d(features, out_features, 3, padding=1))

    def pyramid(self, levels: Levels, height: int, width: int) -> list[Tensor]:
        """The four lateral maps, fine to coarse, each [N, features, h_i, w_i]."""
        rows, cols = height // self.patch_size, width // self.patch_size
        maps = []
        for i, layer in enumerate(self.layers):
            tokens = self.norm(levels[layer][:, self.patch_start :])
            x = self.projects[i](tokens.transpose(1, 2).unflatten(2, (rows, cols)))
            x = add_position(x, width / height)
            maps.append(self.scratch.get_submodule(f"layer{i + 1}_rn")(self.resize_layers[i](x)))
        return maps

    def features(self, levels: Levels, height: int, width: int, rows: int, cols: int) -> Tensor:
        """Fused map resized to rows x cols, position added (the input of the output convolutions)."""
        maps = self.pyramid(levels, height, width)
        path = maps[3]
        for i in (4, 3, 2, 1):
            lateral = None if i == 4 else maps[i - 1]
            size = maps[i - 2].shape[-2:] if i > 1 else (2 * maps[0].shape[-2], 2 * maps[0].shape[-1])
            path = self.scratch.get_submodule(f"refinenet{i}")(path, lateral, *size)
        path = resize(self.scratch.get_submodule("output_conv1")(path), rows, cols)
        return add_position(path, width / height)

    def chunked(self, levels: Levels, run: Callable[[Levels], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What `run` makes of the levels, a few frames at a time: they are independent, so no number changes."""
        frames = levels[self.layers[0]].shape[0]
        # under export the frame count is a symbol, which a loop could not follow
        if torch.compiler.is_exporting() or frames <= FRAMES_PER_CHUNK:
            return run(levels)
        starts = range(0, frames, FRAMES_PER_CHUNK)
        parts = [run({k: levels[k][i : i + FRAMES_PER_CHUNK] for k in self.layers}) for i in starts]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))


class DPTHead(DPTFeatures):
    """Token levels -> values [N, H, W, out-1] and confidence [N, H, W] (>= 1).

    `activation` is "exp" (depth = exp x, positive) or "inv_log" (points = sign(y) expm1 |y|).
    """

    def __init__(self, config: DPTConfig, head_channels: int, out: int, activation: str) -> None:
        half = config.features // 2
        super().__init__(config, half)
        self.activation = activation
        self.scratch.add_module(
            "output_conv2",
            nn.Sequential(nn.Conv2d(half, head_channels, 3, padding=1), nn.ReLU(), nn.Conv2d(head_channels, out, 1)),
        )

    def activate(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Raw map [N, out, H, W] -> (values [N, H, W, out-1], confidence [N, H, W])."""
        raw = raw.permute(0, 2, 3, 1)
        values, confidence = raw[..., :-1], raw[..., -1]
        values = values.exp() if self.activation == "exp" else values.sign() * torch.expm1(values.abs())
        return values, 1 + confidence.exp()

    def forward(
        self, levels: Levels, height: int, width: int, output_size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """`output_size` (rows, cols) overrides the full resolution height x width, e.g. for cheaper training."""
        rows, cols = output_size or (height, width)

        def run(part: Levels) -> tuple[Tensor, ...]:
            fused = self.features(part, height, width, rows, cols)
            return self.activate(self.scratch.get_submodule("output_conv2")(fused))

        values, confidence = self.chunked(levels, run)
        return values, confidence
