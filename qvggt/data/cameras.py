"""What no camera can be: the one rule by which every data set leaves frames or sequences out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ORTHONORMAL = 1e-2
"""Largest |R^T R - 1| of a stored rotation: text files round, 7-Scenes to about 1e-7."""

NO_CAMERA = "no camera"
"""Why a sequence is skipped."""


def are_cameras(rotation: ArrayLike, translation: ArrayLike, focal: ArrayLike = 1.0) -> NDArray[np.bool_]:
    """Rotation [..., 3, 3], translation [..., 3], focal lengths [..., any] -> bool [...]: all finite, the rotation
    orthonormal and right-handed, the focal lengths positive."""
    turn, shift, lengths = (np.asarray(values, np.float64) for values in (rotation, translation, focal))
    finite = np.isfinite(turn).all((-1, -2)) & np.isfinite(shift).all(-1)
    turn = np.where(np.asarray(finite)[..., None, None], turn, 0.0)  # which is no rotation
    error = np.abs(np.swapaxes(turn, -1, -2) @ turn - np.eye(3)).max((-1, -2))
    rigid = (error <= ORTHONORMAL) & (np.linalg.det(turn) > 0)
    lenses = np.isfinite(lengths) & (lengths > 0)
    return np.asarray(rigid & (lenses.all(-1) if lenses.ndim else lenses))
