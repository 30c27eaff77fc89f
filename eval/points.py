"""Accuracy, completeness and normal consistency of point maps (7-Scenes/NRGBD protocol, spec evaluation.md 4.3), and
what other data sets change in it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.eval.alignment import DOWN, Points, scaled, shift_and_spread
from qvggt.eval.clouds import BACKENDS, MIN_POINTS, Backend, Cloud, CloudDistances, distances, register
from qvggt.eval.scan import TrueScan
from qvggt.eval.similarity import fit_similarity
from qvggt.geometry import decode_pose, invert_extrinsics, to_homogeneous, unproject
from qvggt.predictions import Predictions

PointSource = Literal["head", "unproj"]


@dataclass(frozen=True)
class PointConfig:
    """crop: side in pixels of the centre of every map that is measured, None: all of it. limit: most points of each
    cloud. icp: largest distance of an ICP pair, unit of the truth, None: no ICP. icp_points: most predicted points that
    ICP is fitted on, 0: all, as the protocol says; the motion it finds is applied to all in any case. sim3: fit a
    similarity on corresponding pixels before ICP. seed: of the subsampling, with the sequence's key. backend: of ICP
    and normals, see `clouds`."""

    crop: int | None = 224
    limit: int = 999_999
    icp: float | None = 0.1
    icp_points: int = 0
    sim3: bool = False
    seed: int = 0
    backend: Backend = "open3d"

    def __post_init__(self) -> None:
        given = (self.crop is None or self.crop >= 1) and (self.icp is None or self.icp > 0)
        if not given or self.limit < MIN_POINTS:
            raise QvggtError(
                f"points: expected crop >= 1, limit >= {MIN_POINTS} and icp > 0, "
                f"got {self.crop}, {self.limit} and {self.icp}"
            )
        if self.icp_points and self.icp_points < MIN_POINTS:
            raise QvggtError(f"points: expected {MIN_POINTS} points or more for ICP (0: all), got {self.icp_points}")
        if self.backend not in BACKENDS:
            raise QvggtError(f"points: expected one of {', '.join(BACKENDS)} for ICP, got {self.backend!r}")


@dataclass(frozen=True)
class PointErrors(CloudDistances):
    """Distances of one sequence, NaN where the prediction has no usable point; scale: factor of the prediction
    before ICP; predicted, truth: points measured. Distances in the unit of the truth."""

    scale: float
    predicted: int
    truth: int

    @property
    def overall(self) -> float:
        """Chamfer distance."""
        return (self.acc + self.comp) / 2

    @property
    def nc(self) -> float | None:
        return None if self.nc1 is None or self.nc2 is None else (self.nc1 + self.nc2) / 2

    @property
    def nc_median(self) -> float | None:
        both = self.nc1_median, self.nc2_median
        return None if both[0] is None or both[1] is None else (both[0] + both[1]) / 2


@dataclass(frozen=True, eq=False)
class TruePoints:
    """Ground truth of one sequence as the protocol measures it; what costs time is made once for all candidates.

    maps [S, H, W, 3] in the frame of the first camera; valid [S, H, W]: they are known there; key: of the sequence;
    scan: predictions are aligned to the maps, but compared with it. ValueError for other shapes.
    """

    maps: Points
    valid: NDArray[np.bool_]
    config: PointConfig
    key: str
    scan: TrueScan | None = None

    def __post_init__(self) -> None:
        if self.valid.shape != self.maps.shape[:-1]:
            raise ValueError(f"point map of shape {self.maps.shape} and mask {self.valid.shape} do not fit")

    def measured(self, maps: Points) -> Points:
        """[S, H, W, 3] -> [N, 3]: the pixels of the central crop that have a truth."""
        rows, columns = (_middle(side, self.config.crop) for side in self.valid.shape[1:])
        return maps[:, rows, columns][self.valid[:, rows, columns]]

    def subsample(self, points: Points, what: str, limit: int | None = None) -> Points:
        """At most `limit` (the protocol's) of them, by a seed of the sequence and `what`; in order."""
        limit = limit or self.config.limit
        if len(points) <= limit:
            return points
        digest = hashlib.sha256(f"{self.config.seed}/{self.key}/{what}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        return points[np.sort(rng.choice(len(points), limit, replace=False))]

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Median z and spread, see `alignment`."""
        return shift_and_spread(self.maps[self.valid])

    @cached_property
    def points(self) -> Points:
        """[N, 3], one for each of `measured`, aligned."""
        return self.measured(self.maps) - self.extent[0] * DOWN

    @cached_property
    def cloud(self) -> Cloud:
        """What predictions are compared with, its tree and normals ready to be shared between threads."""
        finite = self.points[np.isfinite(self.points).all(-1)]
        cloud = Cloud(self.subsample(finite, "truth"), self.config.backend)
        if len(cloud.points) >= MIN_POINTS:
            assert cloud.tree.n == len(cloud.normals)
        return cloud


def point_errors(predicted: NDArray[np.floating], truth: TruePoints) -> PointErrors:
    """Predicted point maps [S, H, W, 3] in the frame of their own first camera.

    Align (`alignment.align`), crop, drop rows that are not finite, optionally fit a similarity, subsample by a seed of
    the key, ICP, measure. Raises ValueError for different shapes, QvggtError without Open3D.
    """
    if predicted.shape != truth.maps.shape:
        raise ValueError(f"point maps of shapes {predicted.shape} and {truth.maps.shape} do not fit")
    config = truth.config
    aligned, scale = scaled(np.asarray(predicted, np.float64), truth.valid, truth.extent[1])
    seen = truth.measured(aligned)
    finite = np.isfinite(seen).all(-1)
    if config.sim3 and (both := finite & np.isfinite(truth.points).all(-1)).sum() >= MIN_POINTS:
        similarity = fit_similarity(seen[both], truth.points[both])
        seen, scale = similarity.points(seen), scale * similarity.scale
    seen = truth.subsample(seen[finite], "predicted")
    if truth.scan is not None:
        errors = truth.scan.distances(seen + truth.extent[0] * DOWN)
        return PointErrors(**vars(errors), scale=scale, predicted=len(seen), truth=len(truth.scan.above))
    errors, cloud = CloudDistances(*[math.nan] * len(fields(CloudDistances))), truth.cloud
    if min(len(cloud.points), len(seen)) >= MIN_POINTS:
        if config.icp is not None:
            motion = register(truth.subsample(seen, "icp", config.icp_points), cloud, config.icp)
            seen = seen @ motion[:3, :3].T + motion[:3, 3]
        errors = distances(Cloud(seen, config.backend), cloud)
    return PointErrors(**vars(errors), scale=scale, predicted=len(seen), truth=len(cloud.points))


def true_points(depth: NDArray[np.floating], extrinsics: Points, intrinsics: Points) -> Points:
    """Depth [S, H, W] -> points float64 [S, H, W, 3] in the frame of the first camera.

    extrinsics [S, 3, 4] camera-from-world; intrinsics [S, 3, 3] of these pixels.
    """
    return unproject(
        torch.from_numpy(np.asarray(depth, np.float64)),
        in_first_camera(torch.from_numpy(extrinsics)),
        torch.from_numpy(intrinsics),
    ).numpy()


def predicted_cameras(predictions: Predictions, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Extrinsics float64 [S, 3, 4] and intrinsics [S, 3, 3] of images of this size."""
    return decode_pose(torch.from_numpy(predictions.pose_enc).double(), height, width)


def predicted_points(predictions: Predictions, height: int, width: int) -> dict[PointSource, NDArray[np.floating]]:
    """Point maps [S, H, W, 3] by source: "head", the point head as it is; "unproj", depth unprojected with the
    predicted cameras into the frame of the first one. Without the ones whose outputs are missing."""
    maps: dict[PointSource, NDArray[np.floating]] = {}
    if predictions.world_points is not None:
        maps["head"] = predictions.world_points
    if predictions.depth is not None:
        extrinsics, intrinsics = predicted_cameras(predictions, height, width)
        depth = torch.from_numpy(predictions.depth).double()
        maps["unproj"] = unproject(depth, in_first_camera(extrinsics), intrinsics).numpy()
    return maps


def in_first_camera(extrinsics: torch.Tensor) -> torch.Tensor:
    """Camera-from-world [S, 3, 4] -> camera-from-first-camera [S, 3, 4]."""
    poses = to_homogeneous(extrinsics)
    return (poses @ invert_extrinsics(poses[:1]))[:, :3]


def _middle(side: int, crop: int | None) -> slice:
    """The central `crop` pixels, or all of a shorter side."""
    crop = crop or side
    start = max(0, side // 2 - crop // 2)
    return slice(start, min(side, start + crop))
