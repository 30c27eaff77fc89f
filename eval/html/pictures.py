"""Frames and depth maps as small JPEG files inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 128  # most pixels of a picture's side
QUALITY = 82
UNKNOWN = (200, 200, 200)  # where a map has no depth
COLOURMAP = "turbo"


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, first and last among them."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).round())] if count else []


def data_uri(pixels: NDArray[np.uint8], side: int = SIDE) -> str:
    """uint8 [h, w, 3] -> "data:image/jpeg;base64,...", at most `side` pixels a side."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels), "RGB") if pixels.ndim == 3 else Image.fromarray(pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def depth_range(maps: Sequence[NDArray[Any] | None]) -> tuple[float, float]:
    """Low and high end of one colour scale: the 1st and 99th percentile of the first map with a known pixel, widened by
    a tenth, so that a candidate that has gone astray is seen to leave the scale instead of stretching it."""
    for values in maps:
        if values is None:
            continue
        known = values[np.isfinite(values) & (values > 0)]
        if known.size:
            low, high = (float(v) for v in np.percentile(known, (1, 99)))
            margin = 0.1 * max(high - low, 1e-6 * abs(high), 1e-9)
            return max(low - margin, 0.0), high + margin
    return 0.0, 1.0


def depth_colours(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Depth [h, w] -> uint8 [h, w, 3]; unknown pixels grey."""
    known = np.isfinite(values) & (values > 0)
    share = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1)
    return np.where(known[..., None], _map(share), np.array(UNKNOWN, np.uint8)).astype(np.uint8)


def relative_error(values: NDArray[Any], reference: NDArray[Any]) -> tuple[NDArray[np.uint8], float]:
    """|values - reference| / reference as grey, black 0 and white 10 % or more; and its median (nan: none known)."""
    known = np.isfinite(values) & np.isfinite(reference) & (reference > 0)
    error = np.abs(np.where(known, values, 1) - np.where(known, reference, 1)) / np.where(known, reference, 1)
    grey = np.where(known, np.clip(error / 0.1, 0, 1) * 255, 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), float(np.median(error[known])) if known.any() else float("nan")


def scale_bar() -> str:
    """The colours from low to high."""
    return data_uri(np.broadcast_to(_map(np.linspace(0, 1, 128)), (8, 128, 3)))


def _map(share: NDArray[Any]) -> NDArray[np.uint8]:
    from matplotlib import colormaps

    return np.asarray(colormaps[COLOURMAP](share, bytes=True))[..., :3]
