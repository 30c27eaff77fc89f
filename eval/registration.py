"""Point-to-point ICP and plane normals on scipy's k-d tree: the algorithms of Open3D's defaults, without Open3D."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qvggt.eval.alignment import Points
from qvggt.eval.similarity import fit_similarity

NEIGHBOURS = 30
CHUNK = 100_000  # points whose neighbours are held at a time


def icp(
    source: Points, target: Points, distance: float, iterations: int = 30, tolerance: float = 1e-6
) -> NDArray[np.float64]:
    """Rigid motion [4, 4] that brings source [N, 3] onto target [M, 3], from the identity.

    Each step pairs every moved point with its nearest target point up to `distance` and takes the rigid motion of least
    squares. It stops after `iterations`, without a pair, or when the share of paired points and their RMSE change by
    less than `tolerance`.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(target)
    motion, moved = np.eye(4), source
    distances, nearest = tree.query(moved, distance_upper_bound=distance, workers=-1)
    fitness, rmse = _quality(distances)
    for _ in range(iterations):
        paired = np.isfinite(distances)
        if not paired.any():
            break
        step = fit_similarity(moved[paired], target[nearest[paired]], rigid=True)
        moved = step.points(moved)
        update = np.eye(4)
        update[:3, :3], update[:3, 3] = step.rotation, step.translation
        motion = update @ motion
        distances, nearest = tree.query(moved, distance_upper_bound=distance, workers=-1)
        before, (fitness, rmse) = (fitness, rmse), _quality(distances)
        if abs(before[0] - fitness) < tolerance and abs(before[1] - rmse) < tolerance:
            break
    return motion


def plane_normals(points: Points, neighbours: int = NEIGHBOURS) -> Points:
    """Unit normals [N, 3]: direction of least variance of the nearest points, itself among them; sign arbitrary."""
    from scipy.spatial import cKDTree

    tree = cKDTree(points)
    count = min(neighbours, len(points))
    result = np.empty_like(points)
    for start in range(0, len(points), CHUNK):
        _, nearest = tree.query(points[start : start + CHUNK], k=count, workers=-1)
        local = points[nearest]
        local = local - local.mean(1, keepdims=True)
        _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", local, local))
        result[start : start + CHUNK] = vectors[:, :, 0]
    return result


def _quality(distances: NDArray[np.float64]) -> tuple[float, float]:
    """(share of paired points, RMSE of the pairs) from distances, inf where there is no pair."""
    paired = distances[np.isfinite(distances)]
    return len(paired) / len(distances), float(np.sqrt(np.square(paired).mean())) if len(paired) else 0.0
