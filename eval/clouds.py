"""Two point clouds against each other: ICP, normals, distances to the nearest neighbour.

ICP and normals come from Open3D, as in the published protocol (spec evaluation.md 4.3), or, where it cannot be
installed, from the same algorithms on scipy's k-d tree (`registration`): figures agree to about 1e-12.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.eval.registration import icp, plane_normals
from qvggt.files import line

Points = NDArray[np.float64]
Backend = Literal["open3d", "scipy"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)
MIN_POINTS = 3


@dataclass(frozen=True)
class CloudDistances:
    """Mean and median distance from predicted to true points (acc), back (comp), and |cosine| of the normals of those
    pairs (nc1 from the prediction, nc2 from the truth), None where a protocol has no normals. Distances in the unit of
    the points, cosines in [0, 1]."""

    acc: float
    acc_median: float
    comp: float
    comp_median: float
    nc1: float | None
    nc1_median: float | None
    nc2: float | None
    nc2_median: float | None


def import_open3d() -> Any:
    """The open3d module; QvggtError says what is missing."""
    other = "or use --point-backend scipy, or leave points out of --metrics"
    try:
        import open3d
    except ModuleNotFoundError as error:
        raise QvggtError(
            f"point metrics need Open3D, which is not installed: pip install '.[eval3d]' in the clone, {other}"
        ) from error
    except ImportError as error:  # on a bare system: libusb-1.0.so.0 or libGL.so.1
        raise QvggtError(f"Open3D does not load ({line(error)}): install that library, {other}") from error
    return open3d


def check_backend(backend: Backend) -> None:
    """QvggtError when it cannot be used here."""
    if backend == "open3d":
        import_open3d()


def default_backend() -> Backend:
    """Open3D where it loads, else scipy; say in the output which."""
    try:
        import_open3d()
    except QvggtError:
        return "scipy"
    return "open3d"


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points [N, 3] and what is made of them once, however many clouds are compared with them."""

    points: Points
    backend: Backend = "open3d"

    @cached_property
    def tree(self) -> Any:
        """scipy's k-d tree."""
        from scipy.spatial import cKDTree

        return cKDTree(self.points)

    @cached_property
    def normals(self) -> Points:
        """Unit normals [N, 3] of the plane through the 30 nearest points, sign arbitrary (Open3D's defaults)."""
        if self.backend == "scipy":
            return plane_normals(self.tree)
        cloud = _cloud(self.points)
        cloud.estimate_normals()
        return np.asarray(cloud.normals, np.float64)


def register(source: Points, target: Cloud, distance: float) -> NDArray[np.float64]:
    """Rigid motion [4, 4] of `source` [N, 3] onto `target` by point-to-point ICP from the identity: pairs up to
    `distance`, at most 30 iterations, stop when fitness and RMSE change by less than 1e-6 (Open3D's defaults)."""
    if target.backend == "scipy":
        return icp(source, target.tree, distance)
    registration = import_open3d().pipelines.registration
    result = registration.registration_icp(
        _cloud(source),
        _cloud(target.points),
        distance,
        np.eye(4),
        registration.TransformationEstimationPointToPoint(),
        registration.ICPConvergenceCriteria(1e-6, 1e-6, 30),
    )
    return np.asarray(result.transformation, np.float64)


def distances(predicted: Cloud, truth: Cloud) -> CloudDistances:
    """At least three points each, in one frame."""
    to_truth, nearest_true = truth.tree.query(predicted.points, workers=-1)
    to_predicted, nearest_predicted = predicted.tree.query(truth.points, workers=-1)
    figures = {
        "acc": to_truth,
        "comp": to_predicted,
        "nc1": np.abs((truth.normals[nearest_true] * predicted.normals).sum(-1)),
        "nc2": np.abs((predicted.normals[nearest_predicted] * truth.normals).sum(-1)),
    }
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    return CloudDistances(**means, **{f"{name}_median": float(np.median(values)) for name, values in figures.items()})


def _cloud(points: Points) -> Any:
    open3d = import_open3d()
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(np.ascontiguousarray(points, np.float64)))
