"""Distances of DTU's evaluation: a cloud against a structured-light scan, where the scanner saw, above the table.

As DTU's own MATLAB code has them: points are thinned to 0.2 mm; those in cells that the scanner saw count for accuracy,
scan points above the table's plane for completeness; pairs of 20 mm and more are left out of the means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.scan import Scan, ScanArrays
from qvggt.eval.clouds import CloudDistances, Points

SPACING, REACH, MARGIN = 0.2, 20.0, 60.0  # mm: between points; of a pair; around the box of the scan


@dataclass(frozen=True, eq=False)
class TrueScan:
    """A scan in its own world, and where that is: camera-from-world [3, 4] of the first camera."""

    scan: Scan
    first: NDArray[np.float64]

    @cached_property
    def arrays(self) -> ScanArrays:
        return self.scan.read()

    @cached_property
    def tree(self) -> Any:
        """scipy's, of the scan."""
        from scipy.spatial import cKDTree

        return cKDTree(self.arrays.points)

    @cached_property
    def above(self) -> Points:
        """Scan points above the table."""
        points, plane = self.arrays.points, self.arrays.plane
        return points[points @ plane[:3] + plane[3] > 0]

    def distances(self, points: Points) -> CloudDistances:
        """Of predicted points [N, 3] in the frame of the first camera, mm; no normals. NaN where nothing is left."""
        from scipy.spatial import cKDTree

        world = (points - self.first[:, 3]) @ self.first[:, :3]
        low, high = self.arrays.low, self.arrays.high
        near = thinned(world[((world >= low - MARGIN) & (world < high + MARGIN)).all(1)], SPACING)
        cells = np.round((near - low) / self.arrays.cell).astype(np.int64)
        shape = self.arrays.seen.shape
        inside = ((cells >= 0) & (cells < shape)).all(1)
        seen = near[inside][self.arrays.seen[tuple(cells[inside].T)]]
        acc = _within(self.tree, seen)
        comp = _within(cKDTree(near), self.above) if len(near) else np.empty(0)
        (acc_mean, acc_median), (comp_mean, comp_median) = _middles(acc), _middles(comp)
        return CloudDistances(acc_mean, acc_median, comp_mean, comp_median, None, None, None, None)


def thinned(points: Points, spacing: float, seed: int = 0) -> Points:
    """Points [N, 3], in random order, without those nearer than `spacing` to one that was kept before them."""
    from scipy.spatial import cKDTree

    points = np.random.default_rng(seed).permutation(points)
    # at most one of a cube whose corners lie `spacing` apart could stay: the first, so far fewer pairs are looked at
    _, first = np.unique(np.floor(points / (spacing / math.sqrt(3))).astype(np.int64), axis=0, return_index=True)
    points = points[np.sort(first)]
    earlier, later = cKDTree(points).query_pairs(spacing, output_type="ndarray").T if len(points) else ((), ())
    gone = np.zeros(len(points), bool)
    earlier, later = np.asarray(earlier, np.int64), np.asarray(later, np.int64)
    while len(earlier):
        waiting = np.zeros(len(points), bool)
        waiting[later] = True  # something earlier, of which nothing is known yet, is near
        kept = ~waiting[earlier]
        gone[later[kept]] = True
        open_ = ~kept & ~gone[earlier] & ~gone[later]
        earlier, later = earlier[open_], later[open_]
    return points[~gone]


def _within(tree: Any, points: Points) -> NDArray[np.float64]:
    """Distances to the nearest of the tree, those below REACH."""
    found, _ = tree.query(points, distance_upper_bound=REACH, workers=-1)
    return np.asarray(found[found < REACH])


def _middles(distances: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and median."""
    return (float(np.mean(distances)), float(np.median(distances))) if len(distances) else (math.nan, math.nan)
