"""Many image sequences from a few, for a calibration that needs no labels: what the float network makes of them is
right by definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CROP = 0.8  # least side of a crop to that of the image
GAMMA, LEAST_LIGHT, MOST_LIGHT = 0.3, 0.7, 1.2


def varied(images: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """`frames` images of a sequence [S, 3, H, W] in [0, 1], in another order and changed all alike: colours exchanged,
    mirrored, other gammas and brightness, half of them cropped; of the same size."""

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    order = torch.randperm(len(images), generator=generator)[:frames]
    x = images[order][:, torch.randperm(3, generator=generator)]
    if draw() < 0.5:
        x = x.flip(-1)
    gamma = (GAMMA * torch.randn(3, 1, 1, generator=generator)).exp()
    x = x.clamp_min(1e-4).pow(gamma) * (LEAST_LIGHT + (MOST_LIGHT - LEAST_LIGHT) * draw(3, 1, 1))
    height, width = images.shape[-2:]
    if draw() < 0.5:
        part = CROP + (1 - CROP) * float(draw())
        rows, columns = max(1, round(part * height)), max(1, round(part * width))
        top, left = int(draw() * (height - rows + 1)), int(draw() * (width - columns + 1))
        x = x[..., top : top + rows, left : left + columns]
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    return x.clamp(0, 1)
