"""Images of the 7-Scenes/NRGBD protocol (spec evaluation.md 4.3): crop about the principal point, Lanczos, crop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt.data.image_file import read_rgb
from qvggt.data.images import Resize
from qvggt.errors import QvggtError

COVER = 1e-8  # added to the scale, so that rounding down never leaves a side one pixel short


ASPECT = 3 / 4


def room_size(height: int, width: int, patch: int) -> tuple[int, int]:
    """(height, width) in whole patches of the largest image of the protocol that fits: 518x518 -> 392x518."""
    width = min(width, round(height / ASPECT / patch) * patch)
    return max(1, min(height // patch, round(width * ASPECT / patch))) * patch, width


def load_padded_room_images(
    paths: Sequence[Path], intrinsics: NDArray[np.float64], inner: tuple[int, int], height: int, width: int
) -> tuple[NDArray[np.float32], list[Resize]]:
    """`load_room_images` of the size `inner` (height, width), in the middle of a white canvas."""
    images, resizes = load_room_images(paths, intrinsics, *inner)
    canvas = np.ones((len(images), 3, height, width), np.float32)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas[:, :, top : top + inner[0], left : left + inner[1]] = images
    padded = []
    for r in resizes:
        x, y = r.source_grid(*inner)
        edges = (0.5 / r.scale_x, 0.5 / r.scale_y)
        low, high = (float(x[0]) - edges[0], float(y[0]) - edges[1]), (float(x[-1]) + edges[0], float(y[-1]) + edges[1])
        padded.append(replace(r.moved(left, top), part=(*low, *high)))
    return canvas, padded


def load_room_images(
    paths: Sequence[Path], intrinsics: NDArray[np.float64], height: int, width: int
) -> tuple[NDArray[np.float32], list[Resize]]:
    """Images float32 [S, 3, height, width] in [0, 1], and where their pixels came from.

    Crop to the largest window centred on the principal point of `intrinsics` [S, 3, 3] (whole pixels), scale by the
    smallest factor that covers the target, sizes rounded down, crop the centre: 640x480 -> 522x392 -> 518x392.
    QvggtError for unreadable images, and for images whose principal point lies outside.
    """
    from PIL.Image import Resampling

    batch = np.empty((len(paths), 3, height, width), np.float32)
    resizes = []
    for slot, path, matrix in zip(batch, paths, intrinsics, strict=True):
        image = read_rgb(path)
        left, top, window_width, window_height = _window(path, image.width, image.height, matrix)
        scale = max(width / window_width, height / window_height) + COVER
        size = math.floor(window_width * scale), math.floor(window_height * scale)
        window = image.crop((left, top, left + window_width, top + window_height))
        resized = window.resize(size, Resampling.LANCZOS)
        x, y = (size[0] - width) // 2, (size[1] - height) // 2
        pixels = np.asarray(resized.crop((x, y, x + width, y + height)), np.float32)
        slot[:] = pixels.transpose(2, 0, 1) / 255
        scale_x, scale_y = size[0] / window_width, size[1] / window_height
        resizes.append(Resize(scale_x, scale_y, -left * scale_x - x, -top * scale_y - y, image.width, image.height))
    return batch, resizes


def _window(path: Path, width: int, height: int, intrinsics: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the largest window whose centre is the principal point."""
    centre_x, centre_y = round(float(intrinsics[0, 2])), round(float(intrinsics[1, 2]))
    half_x, half_y = min(centre_x, width - centre_x), min(centre_y, height - centre_y)
    if half_x < 1 or half_y < 1:
        raise QvggtError(
            f"{path}: expected an image around its principal point ({centre_x}, {centre_y}), got {width}x{height}; "
            "restore the original image"
        )
    return centre_x - half_x, centre_y - half_y, 2 * half_x, 2 * half_y
