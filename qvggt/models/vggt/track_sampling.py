"""What the tracker reads from its feature maps: samples, correlations, embeddings (spec/track_head.md 4-6).

Positions are (x, y) in feature-map pixels: integer 0 is the centre of the first cell, size-1 that of the last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(maps: Tensor, points: Tensor, padding: str) -> Tensor:
    """Bilinear samples [N, C, K, L] of maps [N, C, h, w] at points [N, K, L, 2].

    `padding` is "border" (outside points take the nearest cell) or "zeros" (each missing neighbour counts 0).
    """
    rows, cols = maps.shape[-2:]
    scale = torch.tensor([2 / max(cols - 1, 1), 2 / max(rows - 1, 1)], dtype=points.dtype, device=points.device)
    return F.grid_sample(maps, points * scale - 1, mode="bilinear", padding_mode=padding, align_corners=True)


def pyramid(maps: Tensor, levels: int) -> list[Tensor]:
    """maps [N, C, h, w] and its successive 2 x 2 means; an odd last row or column is dropped."""
    out = [maps]
    for _ in range(levels - 1):
        out.append(F.avg_pool2d(out[-1], 2, stride=2))
    return out


def window(radius: int, like: Tensor) -> Tensor:
    """Offsets (dx, dy) of a square window, [(2r+1)^2, 2]; the slow index moves x, the fast one y (section 5)."""
    line = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(line, line)


def correlation(maps: list[Tensor], features: Tensor, coords: Tensor, radius: int) -> Tensor:
    """Scores of each track's feature against a window around its position, [N, K, levels * (2r+1)^2].

    maps: pyramid of [N, C, h, w] (N frames); features [N, K, C]; coords [N, K, 2] on level 0. Scores are
    dot products over sqrt(C). Sampling is linear, so the maps are sampled before the product: the score volume
    of level 0 alone would take 268 kB for each track and frame of a 518-pixel image.
    """
    offsets = window(radius, coords)
    scores = []
    for level, grid in enumerate(maps):
        near = sample(grid, (coords / 2**level)[:, :, None] + offsets, "zeros")  # [N, C, K, (2r+1)^2]
        scores.append(torch.einsum("nckw,nkc->nkw", near, features))
    return torch.cat(scores, dim=-1) / features.shape[-1] ** 0.5


def flow_embedding(flow: Tensor, channels: int) -> Tensor:
    """Interleaved sin, cos of flow [..., 2] (feature-map pixels): [..., 2 * channels], x first, then y.

    Frequencies are linearly spaced from 0 in steps of 2000/channels rad per pixel. The values are rounded to
    fp32 whatever the input's type, as in the reference.
    """
    omega = torch.arange(0, channels, 2, dtype=flow.dtype, device=flow.device) * (1000 / channels)
    angle = flow[..., None] * omega  # [..., 2, channels / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3).float().to(flow.dtype)


def sinusoids(size: int, channels: int, device: torch.device) -> Tensor:
    """fp32 table [channels, size]: all sines, then all cosines, of a cell index times 10000^(-k/(channels/2))."""
    half = channels // 2
    omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angle = omega[:, None] * torch.arange(size, dtype=torch.float64, device=device)
    return torch.cat([angle.sin(), angle.cos()]).float()


def place_embedding(points: Tensor, rows: int, cols: int, channels: int) -> Tensor:
    """Embedding [N, K, channels] of points [N, K, 2] on a rows x cols map: first half x, second half y (4.7).

    A sinusoidal map is interpolated between cells (not the same as the sine of a fractional position), in fp32
    whatever the type of the points, as in the reference. Each half varies along one axis only, so an expanded
    view stands for the map, which would take 104 MB at 518 pixels.
    """
    half = channels // 2
    x = sinusoids(cols, half, points.device)[:, None].expand(-1, rows, -1)
    y = sinusoids(rows, half, points.device)[..., None].expand(-1, -1, cols)
    grid = points.float()[:, :, None]
    halves = [sample(table.expand(len(points), -1, -1, -1), grid, "border")[..., 0] for table in (x, y)]
    return torch.cat(halves, dim=1).transpose(1, 2).to(points.dtype)
