"""Point-to-point ICP and plane normals on scipy's k-d tree: the algorithms of Open3D's defaults, without Open3D."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.eval.alignment import Points
from qvggt.eval.similarity import fit_similarity

NEIGHBOURS = 30
CHUNK = 4096  # points whose neighbours are held at a time: few enough to stay in a processor's cache
REACH = 2.0  # pairs are looked for so many times farther than ICP wants them, so that they last while points move
ROUNDING = 1e-12  # of a bound on a distance, relative to the reach


class Pairs:
    """The nearest target of every point of a cloud that moves a little at a time.

    Each point's two nearest targets are asked of the tree once. While the nearest is closer than the second can have
    come by the point's motion since, it is still the nearest, so only the other points are asked for again: the same
    pairs as of a fresh query, at half of the queries in a typical registration.
    """

    def __init__(self, tree: Any, distance: float) -> None:
        """tree: scipy's, of the targets [M, 3]. distance: up to which there are pairs."""
        self._tree, self._distance = tree, distance
        # one more row for "none", the index that the tree gives then
        self._targets = np.concatenate([tree.data, np.full((1, 3), np.inf)])
        self._asked_at: Points | None = None

    def __call__(self, moved: Points) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(distance [N], inf without a pair; index of the target [N]) of points [N, 3], the same N each time."""
        if self._asked_at is None:
            self._asked_at = np.empty_like(moved)
            self._nearest, self._second = np.empty(len(moved), np.int64), np.empty(len(moved))
            distances, ask = np.empty(len(moved)), np.arange(len(moved))
        else:
            distances = _lengths(moved - self._targets[self._nearest])
            others = self._second - _lengths(moved - self._asked_at)
            ask = np.flatnonzero(np.minimum(distances, self._distance) >= others)
        reach = REACH * self._distance
        found, indices = self._tree.query(moved[ask], k=2, distance_upper_bound=reach, workers=-1)
        self._asked_at[ask], self._nearest[ask] = moved[ask], indices[:, 0]
        self._second[ask] = np.minimum(found[:, 1], reach) - ROUNDING * reach
        distances[ask] = found[:, 0]
        return np.where(distances < self._distance, distances, np.inf), self._nearest


def icp(
    source: Points, tree: Any, distance: float, iterations: int = 30, tolerance: float = 1e-6
) -> NDArray[np.float64]:
    """Rigid motion [4, 4] that brings source [N, 3] onto the points of scipy's tree, from the identity.

    Each step pairs every moved point with its nearest target point up to `distance` and takes the rigid motion of least
    squares. It stops after `iterations`, without a pair, or when the share of paired points and their RMSE change by
    less than `tolerance`.
    """
    pairs = Pairs(tree, distance)
    motion, moved = np.eye(4), source
    distances, nearest = pairs(moved)
    fitness, rmse = _quality(distances)
    for _ in range(iterations):
        paired = np.isfinite(distances)
        if not paired.any():
            break
        step = fit_similarity(moved[paired], tree.data[nearest[paired]], rigid=True)
        moved = step.points(moved)
        update = np.eye(4)
        update[:3, :3], update[:3, 3] = step.rotation, step.translation
        motion = update @ motion
        distances, nearest = pairs(moved)
        before, (fitness, rmse) = (fitness, rmse), _quality(distances)
        if abs(before[0] - fitness) < tolerance and abs(before[1] - rmse) < tolerance:
            break
    return motion


def plane_normals(tree: Any, neighbours: int = NEIGHBOURS) -> Points:
    """Unit normals [N, 3] of the points of scipy's tree: direction of least variance of the nearest points, itself
    among them; sign arbitrary."""
    points = tree.data
    result = np.empty_like(points)

    def fill(start: int) -> None:
        part = slice(start, start + CHUNK)
        _, nearest = tree.query(points[part], k=min(neighbours, len(points)))
        local = points[nearest]
        local -= local.mean(1, keepdims=True)
        _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", local, local))
        result[part] = vectors[:, :, 0]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, len(points), CHUNK)))
    return result


def _lengths(vectors: Points) -> NDArray[np.float64]:
    """[N, 3] -> [N], summed in the order of the tree."""
    x, y, z = np.square(vectors).T
    return np.sqrt(x + y + z)


def _quality(distances: NDArray[np.float64]) -> tuple[float, float]:
    """(share of paired points, RMSE of the pairs) from distances, inf where there is no pair."""
    paired = distances[np.isfinite(distances)]
    return len(paired) / len(distances), float(np.sqrt(np.square(paired).mean())) if len(paired) else 0.0
