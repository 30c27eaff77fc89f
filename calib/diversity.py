"""A diverse subset: clusters of the features, and members spread over each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError

Array = NDArray[np.float64]
Pick = Literal["spread", "nearest", "random"]
PICKS: tuple[Pick, ...] = ("spread", "nearest", "random")


@dataclass(frozen=True)
class Clusters:
    """labels [N]: cluster of each point. distances [N]: from its cluster's centre. Clusters are numbered by their
    first point, so that the numbers say nothing about the random start."""

    labels: NDArray[np.int64]
    distances: Array

    def members(self) -> list[NDArray[np.int64]]:
        """Indices of each cluster's points, in order."""
        return [np.flatnonzero(self.labels == label) for label in range(int(self.labels.max()) + 1)]


def cluster(points: Array, clusters: int, seed: int) -> Clusters:
    """k-means of points [N, D], at most `clusters` of them (fewer when fewer points differ); best of ten starts."""
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise QvggtError("calibration-set selection needs scikit-learn; pip install scikit-learn") from error
    count = min(clusters, len(np.unique(points, axis=0)))
    with threadpool_limits(1):  # several threads add in another order each time
        fitted = KMeans(n_clusters=count, random_state=seed, n_init=10).fit(points)
    distances = np.linalg.norm(points - fitted.cluster_centers_[fitted.labels_], axis=1)
    _, first = np.unique(fitted.labels_, return_index=True)
    number = {int(fitted.labels_[index]): n for n, index in enumerate(np.sort(first))}
    return Clusters(np.array([number[int(label)] for label in fitted.labels_]), distances)


def pick_members(points: Array, groups: Clusters, per_cluster: int, seed: int, how: Pick = "spread") -> list[int]:
    """Indices of up to `per_cluster` points of each cluster, sorted.

    spread: the point nearest the centre, then always the one farthest from those taken (Gonzalez 1985).
    nearest: the ones nearest the centre. random: seeded, as published.
    """
    chosen: list[int] = []
    generator = np.random.default_rng(seed)
    for members in groups.members():
        nearest = members[np.argsort(groups.distances[members], kind="stable")]
        if how == "spread":
            chosen += _spread(points, nearest, per_cluster)
        elif how == "nearest":
            chosen += nearest[:per_cluster].tolist()
        else:
            chosen += generator.permutation(members)[:per_cluster].tolist()
    return sorted(chosen)


def fill(groups: Clusters, chosen: Sequence[int], count: int) -> list[int]:
    """What to add to `chosen` until there are `count` points: the ones nearest their cluster's centre."""
    taken = set(chosen)
    rest = [int(i) for i in np.argsort(groups.distances, kind="stable") if int(i) not in taken]
    return rest[: max(0, count - len(taken))]


def mean_pairwise_distance(points: Array) -> float:
    """Of points [N, D], N >= 2: larger is more diverse."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return float(distances.sum() / (len(points) * (len(points) - 1)))


def coverage_distance(points: Array, chosen: Array) -> float:
    """Mean distance of points [N, D] to the nearest of chosen [M, D]: smaller covers better."""
    return float(np.mean([np.linalg.norm(chosen - point, axis=1).min() for point in points]))


def _spread(points: Array, nearest: NDArray[np.int64], count: int) -> list[int]:
    taken = [int(nearest[0])]
    distance = np.linalg.norm(points[nearest] - points[taken[0]], axis=1)
    distance[0] = -1.0  # never again, even among points that coincide
    while len(taken) < min(count, len(nearest)):
        far = int(distance.argmax())
        taken.append(int(nearest[far]))
        distance = np.minimum(distance, np.linalg.norm(points[nearest] - points[taken[-1]], axis=1))
        distance[far] = -1.0
    return taken
