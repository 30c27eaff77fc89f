"""Similarities of space (scale, rotation, shift): estimated from matching points, applied to cameras and depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError

Array = NDArray[Any]

ROUNDS = 15  # of reweighting; the weights settle in about five
TUNING = 2.0  # residuals beyond so many medians count less


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation. rotation float64 [3, 3], translation float64 [3]."""

    scale: float
    rotation: Array
    translation: Array

    def points(self, points: Array) -> Array:
        """[..., 3] -> [..., 3], float64."""
        return self.scale * (np.asarray(points, np.float64) @ self.rotation.T) + self.translation

    def extrinsics(self, extrinsics: Array) -> Array:
        """Camera-from-world [..., 3, 4] of the old world -> of the new one, where lengths are `scale` times longer.

        A point's camera coordinates, and with them its depth, grow by `scale`; its pixel stays.
        """
        extrinsics = np.asarray(extrinsics, np.float64)
        rotation = extrinsics[..., :3] @ self.rotation.T
        translation = self.scale * extrinsics[..., 3] - rotation @ self.translation
        return np.concatenate([rotation, translation[..., None]], axis=-1)


def fit_similarity(source: Array, target: Array, weights: Array | None = None, rigid: bool = False) -> Similarity:
    """Least squares in closed form (Umeyama 1991): target ~ similarity(source). rigid: scale 1.

    source, target [N, 3], weights [N] >= 0 (None: all alike), N >= 3 points that do not all lie on a line: with
    weights QvggtError otherwise; without, a source without spread is only moved.
    """
    count = len(source)
    given = np.ones(count) if weights is None else weights
    total = float(given.sum())
    if weights is not None and (count < 3 or not total > 0):
        raise QvggtError(f"similarity: expected 3 or more points of positive weight, got {count}")
    w = (given / total)[:, None]
    mean_source, mean_target = (w * source).sum(0), (w * target).sum(0)
    a, b = source - mean_source, target - mean_target
    covariance, variance = (w * b).T @ a, float((w * a * a).sum())
    u, d, vt = np.linalg.svd(covariance)
    if weights is not None and not (variance > 0 and d[1] > 1e-9 * d[0]):
        raise QvggtError("similarity: the shared points lie on a line or in one place, so no rotation follows")
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])  # no mirror image
    rotation = (u * sign) @ vt
    scale = float(d @ sign) / variance if variance > 0 and not rigid else 1.0
    return Similarity(scale, rotation, mean_target - scale * rotation @ mean_source)


def fit_robust(source: Array, target: Array, weights: Array) -> tuple[Similarity, Array]:
    """As `fit_similarity`, with points that disagree weighed down: iteratively reweighted least squares with Cauchy
    weights, scaled by the median residual. Returns the similarity and the residuals [N] in the units of `target`."""
    factor = np.ones(len(source))
    for _ in range(ROUNDS):
        motion = fit_similarity(source, target, weights * factor)
        residuals = np.linalg.norm(motion.points(source) - target, axis=1)
        middle = float(np.median(residuals))
        if middle <= 1e-12 * float(np.abs(target).max() + 1e-300):
            break
        factor = 1 / (1 + (residuals / (TUNING * middle)) ** 2)
    return motion, residuals
