"""Co3Dv2 intrinsics ("ndc_isotropic") <-> pixel intrinsics.

The shorter image side spans [-1, 1], both axes share that unit, +x is left and +y is up (PyTorch3D), so with
half = min(H, W) / 2:  focal_ndc = focal_px / half,  principal_ndc = ((W/2 - cx) / half, (H/2 - cy) / half).
Pixel coordinates are used as they are, without a half-pixel shift: an image with principal_ndc = 0 has
(cx, cy) = (W/2, H/2), as VGGT assumes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def intrinsics_to_ndc(
    intrinsics: ArrayLike, height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixel intrinsics [...,3,3] -> (focal_length [...,2], principal_point [...,2]), x first; skew is dropped."""
    matrix = np.asarray(intrinsics, np.float64)
    half = min(height, width) / 2
    focal = np.stack([matrix[..., 0, 0], matrix[..., 1, 1]], axis=-1) / half
    principal = np.stack([width / 2 - matrix[..., 0, 2], height / 2 - matrix[..., 1, 2]], axis=-1) / half
    return focal, principal


def ndc_to_intrinsics(focal: ArrayLike, principal: ArrayLike, height: int, width: int) -> NDArray[np.float64]:
    """(focal_length [...,2], principal_point [...,2]) -> pixel intrinsics float64 [...,3,3] of an HxW image."""
    half = min(height, width) / 2
    focal_px = np.asarray(focal, np.float64) * half
    centre = np.array([width / 2, height / 2]) - np.asarray(principal, np.float64) * half
    matrix = np.zeros((*focal_px.shape[:-1], 3, 3))
    matrix[..., 0, 0], matrix[..., 1, 1] = focal_px[..., 0], focal_px[..., 1]
    matrix[..., :2, 2] = centre
    matrix[..., 2, 2] = 1
    return matrix
