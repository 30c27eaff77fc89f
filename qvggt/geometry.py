"""Cameras: rotations as quaternions, the 9-number pose encoding, depth unprojection, axis conventions.

Frames and units, in this whole module (spec vggt.md 1.11): extrinsics are *camera-from-world* `[R | T]` with OpenCV
axes (x right, y down, z forward), so `p_cam = R p_world + T`; intrinsics are in pixels of the image the network saw;
angles are radians; quaternions are `(x, y, z, w)`, scalar last. Leading dimensions `...` are batch dimensions. Torch
functions keep the dtype and device of their input; the PyTorch3D conversions are NumPy float64, as the datasets are.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

MIN_FOV = 1e-3
"""Smallest field of view a focal length is derived from, rad (0.057 deg; focal = 1000 x image side)."""
MAX_FOV = math.pi - MIN_FOV
"""Largest one, rad: at pi the focal length reaches zero and beyond it turns negative."""

_FLIP_XY = np.array([-1.0, -1.0, 1.0])  # PyTorch3D has x left and y up; z forward is shared


def pytorch3d_to_opencv(R: ArrayLike, T: ArrayLike) -> NDArray[np.float64]:
    """PyTorch3D camera (Co3D annotations) -> OpenCV extrinsics (spec evaluation.md 4.1).

    R `[..., 3, 3]`: PyTorch3D rotation, which acts on row vectors (`p_cam = p_world R + T`); T `[..., 3]`.
    Returns camera-from-world `[..., 3, 4]`, float64. Raises ValueError on other shapes.
    """
    rotation, translation = np.asarray(R, np.float64), np.asarray(T, np.float64)
    if rotation.shape[-2:] != (3, 3) or translation.shape != rotation.shape[:-1]:
        raise ValueError(f"expected R [..., 3, 3] and T [..., 3], got {rotation.shape} and {translation.shape}")
    rotation = np.swapaxes(rotation * _FLIP_XY, -1, -2)  # negate two columns, then row-vector -> column-vector form
    return np.concatenate([rotation, (translation * _FLIP_XY)[..., None]], axis=-1)


def opencv_to_pytorch3d(E: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """OpenCV extrinsics -> PyTorch3D camera; the exact inverse of `pytorch3d_to_opencv`.

    E: camera-from-world `[..., 3, 4]` or `[..., 4, 4]`. Returns R `[..., 3, 3]` (row-vector form) and T `[..., 3]`,
    float64. Raises ValueError on other shapes.
    """
    extrinsics = np.asarray(E, np.float64)
    if extrinsics.ndim < 2 or extrinsics.shape[-2:] not in ((3, 4), (4, 4)):
        raise ValueError(f"expected E [..., 3, 4] or [..., 4, 4], got {extrinsics.shape}")
    rotation = np.swapaxes(extrinsics[..., :3, :3], -1, -2) * _FLIP_XY
    return rotation, extrinsics[..., :3, 3] * _FLIP_XY


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """`[..., 4]` (x, y, z, w), any non-zero length -> rotation `[..., 3, 3]`.

    The network does not normalise its quaternion, so the length is divided out here. The zero quaternion has no
    direction and gives the identity.
    """
    # Scaling by the largest entry first keeps |q|^2 in [1, 4]: no overflow or underflow, whatever the length.
    largest = quaternion.detach().abs().amax(-1, keepdim=True).clamp_min(torch.finfo(quaternion.dtype).tiny)
    q = quaternion / largest
    x, y, z, w = q.unbind(-1)
    s = 2.0 / (q * q).sum(-1).clamp_min(1.0)
    rows = [
        1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w),
        s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w),
        s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Rotation `[..., 3, 3]` -> unit quaternion `[..., 4]` (x, y, z, w) with w >= 0.

    Every row of `4 q q^T`, which is linear in the matrix, is a multiple of q. The row with the largest diagonal entry
    (>= 1 for a rotation) is the best conditioned one, so no rotation angle loses precision. A matrix that is a rotation
    only up to rounding still gives unit length.
    """
    m = matrix.flatten(-2).unbind(-1)  # m[3 * row + column]
    xx = 1 + m[0] - m[4] - m[8]
    yy = 1 - m[0] + m[4] - m[8]
    zz = 1 - m[0] - m[4] + m[8]
    ww = 1 + m[0] + m[4] + m[8]
    xy, xz, yz = m[1] + m[3], m[2] + m[6], m[5] + m[7]
    xw, yw, zw = m[7] - m[5], m[2] - m[6], m[3] - m[1]
    entries = [xx, xy, xz, xw, xy, yy, yz, yw, xz, yz, zz, zw, xw, yw, zw, ww]
    outer = torch.stack(entries, -1).unflatten(-1, (4, 4))
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = outer.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., 3:] < 0, -q, q)


def to_homogeneous(extrinsics: Tensor) -> Tensor:
    """`[..., 3, 4]` -> `[..., 4, 4]` with last row (0, 0, 0, 1); a 4x4 input is returned as it is."""
    if extrinsics.shape[-2:] == (4, 4):
        return extrinsics
    bottom = extrinsics.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*extrinsics.shape[:-2], 1, 4)
    return torch.cat([extrinsics, bottom], dim=-2)


def invert_extrinsics(extrinsics: Tensor) -> Tensor:
    """Camera-from-world -> world-from-camera (and back), `[..., 3, 4]` or `[..., 4, 4]`; the shape is kept.

    Rigid inverse `[R^T | -R^T T]`: exact for rotations, no general matrix solve.
    """
    rotation_t = extrinsics[..., :3, :3].transpose(-1, -2)
    translation = -rotation_t @ extrinsics[..., :3, 3:]
    inverse = torch.cat([rotation_t, translation], dim=-1)
    return to_homogeneous(inverse) if extrinsics.shape[-2] == 4 else inverse


def decode_pose(encoding: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """VGGT pose encoding `[..., 9]` -> extrinsics `[..., 3, 4]` and intrinsics `[..., 3, 3]` (spec vggt.md 1.11).

    The nine numbers are Tx, Ty, Tz, qx, qy, qz, qw, fov_h, fov_w (vertical, then horizontal field of view, rad).
    `height`, `width`: pixels of the preprocessed image. The principal point is the image centre (W/2, H/2).

    The network's field of view passes a ReLU, so it can be 0 (infinite focal length) and has no upper bound. It is
    clamped to [MIN_FOV, MAX_FOV]: focal lengths are always positive and finite. NaN stays NaN.
    """
    translation, quaternion, fov = encoding.split([3, 4, 2], dim=-1)
    extrinsics = torch.cat([quaternion_to_matrix(quaternion), translation[..., None]], dim=-1)
    half = encoding.new_tensor([height / 2, width / 2])
    fy, fx = (half / torch.tan(fov.clamp(MIN_FOV, MAX_FOV) / 2)).unbind(-1)
    intrinsics = encoding.new_zeros(*encoding.shape[:-1], 3, 3)
    intrinsics[..., 0, 0], intrinsics[..., 0, 2] = fx, width / 2
    intrinsics[..., 1, 1], intrinsics[..., 1, 2] = fy, height / 2
    intrinsics[..., 2, 2] = 1.0
    return extrinsics, intrinsics


def encode_pose(extrinsics: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Extrinsics `[..., 3|4, 4]` and intrinsics `[..., 3, 3]` -> pose encoding `[..., 9]`; inverse of `decode_pose`.

    Only the focal lengths of the intrinsics are encoded: principal point and skew have no place in the nine numbers.
    The quaternion comes out with unit length and qw >= 0.
    """
    quaternion = matrix_to_quaternion(extrinsics[..., :3, :3])
    focal = torch.stack([intrinsics[..., 1, 1], intrinsics[..., 0, 0]], dim=-1)
    fov = 2 * torch.atan(focal.new_tensor([height / 2, width / 2]) / focal)
    return torch.cat([extrinsics[..., :3, 3], quaternion, fov], dim=-1)


def unproject(depth: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> Tensor:
    """Depth maps -> world points `[..., H, W, 3]` (spec vggt.md 1.11).

    depth `[..., H, W]` or `[..., H, W, 1]`: camera-frame z; extrinsics `[..., 3|4, 4]`, intrinsics `[..., 3, 3]`,
    all with the same leading dimensions. The ray of a pixel goes through its integer coordinates (u in 0..W-1, no half
    pixel added), as in the reference. Zero or negative depth is not masked. Raises ValueError when shapes disagree.
    """
    lead = extrinsics.shape[:-2]
    if depth.dim() == len(lead) + 3 and depth.shape[-1] == 1:
        depth = depth.squeeze(-1)
    if depth.dim() != len(lead) + 2 or depth.shape[:-2] != lead or intrinsics.shape != (*lead, 3, 3):
        raise ValueError(
            f"expected depth {[*lead, 'H', 'W']} (or a trailing 1) and intrinsics {[*lead, 3, 3]}, "
            f"got {list(depth.shape)} and {list(intrinsics.shape)}"
        )
    v, u = (torch.arange(n, dtype=depth.dtype, device=depth.device) for n in depth.shape[-2:])
    fx, fy, cx, cy = (intrinsics[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    camera = torch.stack([(u - cx) / fx * depth, (v[:, None] - cy) / fy * depth, depth], dim=-1)
    offset = camera - extrinsics[..., None, None, :3, 3]
    return offset @ extrinsics[..., None, :3, :3]  # row vectors: (p - T) R is R^T (p - T)


def project(points: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """World points `[..., N, 3]` -> pixels `[..., N, 2]` (u, v) and depth `[..., N]`; the inverse of `unproject`.

    Points at or behind the camera plane (depth <= 0) give pixels without meaning: mask by the returned depth.
    """
    camera = points @ extrinsics[..., :3, :3].transpose(-1, -2) + extrinsics[..., None, :3, 3]
    depth = camera[..., 2]
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)[..., None, :]
    pixels = camera[..., :2] / depth[..., None] * focal + intrinsics[..., None, :2, 2]
    return pixels, depth
