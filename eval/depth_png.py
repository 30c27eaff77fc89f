"""Co3D depth maps: a 16-bit greyscale PNG whose integers are the bits of IEEE half floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError


def read_depth(path: str | Path) -> NDArray[np.float32]:
    """Depth float32 [H,W] along the camera z axis, in the units of the camera translations; 0 = no measurement.

    Non-finite and negative values become 0. Original Co3D files still need the `scale_adjustment` of their frame
    annotation (not part of the compact annotation files); files of `write_co3d` do not.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, stored = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise QvggtError(f"{path}: expected a 16-bit depth PNG, got {error}; restore the file") from error
    if mode not in ("I;16", "I;16B", "I") or stored.ndim != 2:
        raise QvggtError(f"{path}: expected a 16-bit greyscale depth PNG, got mode {mode}; restore the file")
    depth = stored.astype(np.uint16).view(np.float16).astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def write_depth(path: str | Path, depth: NDArray[Any]) -> None:
    """Store depth [H,W] with half-float precision (relative 2^-11, largest value 65504)."""
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(depth, dtype=np.float16).view(np.uint16)).save(path, format="PNG")
