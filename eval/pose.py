"""Camera-pose errors between pairs of views, and the area under their accuracy curve (AUC@T).

The Co3D protocol of spec evaluation.md 4.2, in float64. Both trajectories are moved into the frame of their own first
camera, so the errors do not depend on the world frame, and the translation error compares directions only, so they do
not depend on scale either. Angles are degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from qvggt.errors import QvggtError
from qvggt.geometry import invert_extrinsics, matrix_to_quaternion, to_homogeneous

THRESHOLDS = (30, 15, 5, 3)
"""AUC thresholds reported together, degrees."""

_FLOOR = 1e-15  # of 1 - cos^2 and of a translation's length: keeps arccos and the division off their singular points
_FAILED = 1e6  # rad; stands for an error that is not a number: beyond every threshold, so the pair counts as wrong


@dataclass(frozen=True)
class PoseErrors:
    """Errors of all P = S (S - 1) / 2 view pairs i < j of one sequence, in the order (0, 1), (0, 2), ..., (1, 2), ...

    rotation_deg [P]: 0..180. translation_deg [P]: angle between the directions up to sign, 0..90. Both float64. Where
    the prediction is not finite the error is about 6e7 degrees: wrong at every threshold.
    """

    rotation_deg: NDArray[np.float64]
    translation_deg: NDArray[np.float64]

    @property
    def worst_deg(self) -> NDArray[np.float64]:
        """`[P]` the larger of the two errors: what the pose AUC is made of."""
        return np.maximum(self.rotation_deg, self.translation_deg)


def pairwise_errors(pred_w2c: ArrayLike | Tensor, gt_w2c: ArrayLike | Tensor) -> PoseErrors:
    """Relative-pose errors of one sequence (spec evaluation.md 4.2).

    pred_w2c, gt_w2c: camera-from-world `[S, 3, 4]` or `[S, 4, 4]`, OpenCV axes, any float type, S >= 2.

    With `E_i <- E_i E_0^-1` and `M_ij = E_i^-1 E_j`, in this order (the published protocol; the usual relative pose is
    `E_j E_i^-1`): the rotation error is the angle between the two relative rotations, the translation error the angle
    between the directions of the two relative translations, blind to their sign. A translation of length zero (cameras
    at the same place) has no direction and counts as 90 degrees.

    Raises QvggtError when the shapes differ, a pair is missing or the ground truth is not finite.
    """
    pred, gt = _as_poses("predicted poses", pred_w2c), _as_poses("ground-truth poses", gt_w2c)
    if pred.shape != gt.shape:
        raise QvggtError(f"predicted poses: expected {gt.shape[0]} as in the ground truth, got {pred.shape[0]}")
    if not torch.isfinite(gt).all():
        raise QvggtError("ground-truth poses: expected finite numbers, got NaN or infinity; leave the sequence out")
    relative_pred, relative_gt = _relative(pred), _relative(gt)
    rotation = _rotation_angle(relative_pred[:, :3, :3], relative_gt[:, :3, :3])
    translation = _direction_angle(relative_pred[:, :3, 3], relative_gt[:, :3, 3])
    return PoseErrors(_degrees(rotation), _degrees(translation))


def auc(errors_deg: ArrayLike, threshold: int) -> float:
    """Area under the accuracy curve up to `threshold` degrees, in [0, 1].

    Histogram over the integer bins [0, 1), ..., [T - 1, T] (only the last one includes its upper edge), cumulated and
    divided by the number of errors: the AUC is the mean of these T fractions. Errors that are not finite lie in no bin.
    Raises QvggtError without any error value or for a threshold below 1.
    """
    errors = _as_errors(errors_deg)
    if threshold < 1 or int(threshold) != threshold:
        raise QvggtError(f"AUC threshold: expected a whole number of degrees >= 1, got {threshold}")
    counts, _ = np.histogram(errors[np.isfinite(errors)], bins=np.arange(int(threshold) + 1))
    return float(np.mean(np.cumsum(counts) / errors.size))


def accuracy(errors_deg: ArrayLike, threshold: float) -> float:
    """Fraction of errors strictly below `threshold` degrees, in [0, 1]: RRA@T (rotation) or RTA@T (translation)."""
    return float(np.mean(_as_errors(errors_deg) < threshold))


def _as_poses(name: str, poses: ArrayLike | Tensor) -> Tensor:
    """-> float64 [S, 4, 4] on the CPU."""
    tensor = torch.as_tensor(poses if isinstance(poses, Tensor) else np.asarray(poses)).detach().cpu().double()
    if tensor.dim() != 3 or tensor.shape[1:] not in ((3, 4), (4, 4)) or len(tensor) < 2:
        raise QvggtError(f"{name}: expected shape [S >= 2, 3 or 4, 4], got {list(tensor.shape)}")
    return to_homogeneous(tensor)


def _as_errors(errors_deg: ArrayLike) -> NDArray[np.float64]:
    errors = np.asarray(errors_deg, np.float64)
    if errors.size == 0:
        raise QvggtError("pose errors: expected at least one pair, got none")
    return errors


def _relative(poses: Tensor) -> Tensor:
    """[S, 4, 4] -> M_ij [P, 4, 4] of all pairs, after alignment to the first camera."""
    poses = poses @ invert_extrinsics(poses[:1])
    first, second = torch.triu_indices(len(poses), len(poses), offset=1)
    return invert_extrinsics(poses)[first] @ poses[second]


def _rotation_angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle between rotations [P, 3, 3] -> [P] rad."""
    cosine = (matrix_to_quaternion(a) * matrix_to_quaternion(b)).sum(-1)
    return torch.arccos(1 - 2 * (1 - cosine**2).clamp_min(_FLOOR))


def _direction_angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle between the lines along two vectors [P, 3] -> [P] rad, 0..pi/2."""
    # The square has dropped the sign, so the protocol's min(e, |180 - e|) has nothing left to do.
    cosine = ((a / (a.norm(dim=-1, keepdim=True) + _FLOOR)) * (b / (b.norm(dim=-1, keepdim=True) + _FLOOR))).sum(-1)
    return torch.arccos((1 - (1 - cosine**2).clamp_min(_FLOOR)).sqrt())


def _degrees(radians: Tensor) -> NDArray[np.float64]:
    finite = torch.where(torch.isfinite(radians), radians, _FAILED)
    return np.degrees(finite.numpy())
