"""Depth maps as 16-bit greyscale PNG: bits of half floats (Co3D), or whole millimetres (7-Scenes, NRGBD)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError

INVALID = 65535  # 7-Scenes: no measurement
FARTHEST = 10.0  # metres


def read_depth(path: str | Path) -> NDArray[np.float32]:
    """Depth float32 [H,W] along the camera z axis, in the units of the camera translations; 0 = no measurement.

    Non-finite and negative values become 0. Original Co3D files still need the `scale_adjustment` of their frame
    annotation (not part of VGGT's compact annotation files); files of `write_co3d` do not.
    """
    depth = _read_integers(path).view(np.float16).astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def read_millimetres(path: str | Path) -> NDArray[np.float32]:
    """Depth float32 [H,W] in metres along the camera z axis; 0 = no measurement (spec evaluation.md 4.3).

    Stored in millimetres; 65535, everything beyond 10 m and everything nearer than 1 mm means none.
    """
    stored = _read_integers(path)
    depth = stored.astype(np.float32) / np.float32(1000)
    return np.where((stored != INVALID) & (depth <= FARTHEST) & (stored >= 1), depth, np.float32(0))


def write_depth(path: str | Path, depth: NDArray[Any]) -> None:
    """Store depth [H,W] with half-float precision (relative 2^-11, largest value 65504)."""
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(depth, dtype=np.float16).view(np.uint16)).save(path, format="PNG")


def _read_integers(path: str | Path) -> NDArray[np.uint16]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, stored = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise QvggtError(f"{path}: expected a 16-bit depth PNG, got {error}; restore the file") from error
    if mode not in ("I;16", "I;16B", "I") or stored.ndim != 2:
        raise QvggtError(f"{path}: expected a 16-bit greyscale depth PNG, got mode {mode}; restore the file")
    return stored.astype(np.uint16)
