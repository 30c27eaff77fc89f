"""Accuracy, completeness and normal consistency of point maps (7-Scenes/NRGBD protocol, spec evaluation.md 4.3)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.eval.alignment import Points, align
from qvggt.eval.clouds import BACKENDS, MIN_POINTS, Backend, CloudDistances, distances, register
from qvggt.eval.similarity import fit_similarity
from qvggt.geometry import decode_pose, invert_extrinsics, to_homogeneous, unproject
from qvggt.predictions import Predictions

PointSource = Literal["head", "unproj"]


@dataclass(frozen=True)
class PointConfig:
    """crop: side in pixels of the centre of every map that is measured. limit: most points of each cloud. icp: largest
    distance of an ICP pair, unit of the truth. sim3: fit a similarity on corresponding pixels before ICP. seed: of
    the subsampling, with the sequence's key. backend: of ICP and normals, see `clouds`."""

    crop: int = 224
    limit: int = 999_999
    icp: float = 0.1
    sim3: bool = False
    seed: int = 0
    backend: Backend = "open3d"

    def __post_init__(self) -> None:
        if self.crop < 1 or self.limit < MIN_POINTS or not self.icp > 0:
            raise QvggtError(
                f"points: expected crop >= 1, limit >= {MIN_POINTS} and icp > 0, "
                f"got {self.crop}, {self.limit} and {self.icp}"
            )
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
    def nc(self) -> float:
        return (self.nc1 + self.nc2) / 2

    @property
    def nc_median(self) -> float:
        return (self.nc1_median + self.nc2_median) / 2


def point_errors(
    predicted: NDArray[np.floating], truth: Points, valid: NDArray[np.bool_], config: PointConfig, key: str
) -> PointErrors:
    """Both point maps [S, H, W, 3] in the frame of their own first camera; valid [S, H, W]: the truth is known there.

    Align (`alignment.align`), crop, drop rows that are not finite, subsample by a seed of `key`, optionally fit a
    similarity, ICP, measure. Raises ValueError for different shapes, QvggtError without Open3D.
    """
    if predicted.shape != truth.shape or valid.shape != truth.shape[:-1]:
        raise ValueError(f"point maps of shapes {predicted.shape}, {truth.shape} and mask {valid.shape} do not fit")
    aligned = align(truth, np.asarray(predicted, np.float64), valid)
    rows, columns = (_middle(side, config.crop) for side in truth.shape[1:3])
    mask = valid[:, rows, columns]
    true, seen = aligned.truth[:, rows, columns][mask], aligned.predicted[:, rows, columns][mask]
    true_finite, seen_finite = np.isfinite(true).all(-1), np.isfinite(seen).all(-1)
    scale = aligned.scale
    if config.sim3 and (both := true_finite & seen_finite).sum() >= MIN_POINTS:
        similarity = fit_similarity(seen[both], true[both])
        seen, scale = similarity.points(seen), scale * similarity.scale
    true, seen = true[true_finite], seen[seen_finite]
    true, seen = _subsample(true, config, f"{key}/truth"), _subsample(seen, config, f"{key}/predicted")
    errors = CloudDistances(*[math.nan] * len(fields(CloudDistances)))
    if min(len(true), len(seen)) >= MIN_POINTS:
        errors = distances(register(seen, true, config.icp, config.backend), true, config.backend)
    return PointErrors(**vars(errors), scale=scale, predicted=len(seen), truth=len(true))


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


def _middle(side: int, crop: int) -> slice:
    """The central `crop` pixels, or all of a shorter side."""
    start = max(0, side // 2 - crop // 2)
    return slice(start, min(side, start + crop))


def _subsample(points: Points, config: PointConfig, key: str) -> Points:
    if len(points) <= config.limit:
        return points
    digest = hashlib.sha256(f"{config.seed}/{key}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    return points[np.sort(rng.choice(len(points), config.limit, replace=False))]
