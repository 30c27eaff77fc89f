"""Two point clouds against each other: ICP, normals, distances to the nearest neighbour.

ICP and normals come from Open3D, as in the published protocol (spec evaluation.md 4.3), or, where it cannot be
installed, from the same algorithms on scipy's k-d tree (`registration`): figures agree to about 1e-12.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    pairs (nc1 from the prediction, nc2 from the truth). Distances in the unit of the points, cosines in [0, 1]."""

    acc: float
    acc_median: float
    comp: float
    comp_median: float
    nc1: float
    nc1_median: float
    nc2: float
    nc2_median: float


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


def register(source: Points, target: Points, distance: float, backend: Backend = "open3d") -> Points:
    """`source` [N, 3] moved onto `target` [M, 3] by point-to-point ICP from the identity: pairs up to `distance`, at
    most 30 iterations, stop when fitness and RMSE change by less than 1e-6 (Open3D's defaults)."""
    if backend == "scipy":
        motion = icp(source, target, distance)
    else:
        registration = import_open3d().pipelines.registration
        result = registration.registration_icp(
            _cloud(source),
            _cloud(target),
            distance,
            np.eye(4),
            registration.TransformationEstimationPointToPoint(),
            registration.ICPConvergenceCriteria(1e-6, 1e-6, 30),
        )
        motion = np.asarray(result.transformation, np.float64)
    return source @ motion[:3, :3].T + motion[:3, 3]


def normals(points: Points, backend: Backend = "open3d") -> Points:
    """Unit normals [N, 3] of the plane through the 30 nearest points, sign arbitrary (Open3D's defaults)."""
    if backend == "scipy":
        return plane_normals(points)
    cloud = _cloud(points)
    cloud.estimate_normals()
    return np.asarray(cloud.normals, np.float64)


def distances(predicted: Points, truth: Points, backend: Backend = "open3d") -> CloudDistances:
    """Clouds [N, 3] and [M, 3], at least three points each, in one frame."""
    from scipy.spatial import cKDTree

    predicted_normals, true_normals = normals(predicted, backend), normals(truth, backend)
    to_truth, nearest_true = cKDTree(truth).query(predicted, workers=-1)
    to_predicted, nearest_predicted = cKDTree(predicted).query(truth, workers=-1)
    figures = {
        "acc": to_truth,
        "comp": to_predicted,
        "nc1": np.abs((true_normals[nearest_true] * predicted_normals).sum(-1)),
        "nc2": np.abs((predicted_normals[nearest_predicted] * true_normals).sum(-1)),
    }
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    return CloudDistances(**means, **{f"{name}_median": float(np.median(values)) for name, values in figures.items()})


def _cloud(points: Points) -> Any:
    open3d = import_open3d()
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(np.ascontiguousarray(points, np.float64)))
