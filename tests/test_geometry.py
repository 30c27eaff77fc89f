"""Rotations, pose encoding, unprojection and axis conventions against stored references and SciPy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from torch import Tensor

from qvggt.geometry import (
    MIN_FOV,
    decode_pose,
    encode_pose,
    invert_extrinsics,
    matrix_to_quaternion,
    opencv_to_pytorch3d,
    project,
    pytorch3d_to_opencv,
    quaternion_to_matrix,
    to_homogeneous,
    unproject,
)

HEIGHT, WIDTH = 392, 518  # of the golden pose encodings

seeds = st.integers(0, 2**32 - 1)
quick = settings(deadline=None, max_examples=25)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(Path(__file__).parent / "data" / "geometry_reference.safetensors")


def random_extrinsics(rng: np.random.Generator, count: int) -> Tensor:
    rotation = Rotation.random(count, rng).as_matrix()
    return torch.from_numpy(np.concatenate([rotation, rng.normal(size=(count, 3, 1))], axis=-1))


# --- PyTorch3D ----------------------------------------------------------------------------------------------------


def test_pytorch3d_to_opencv_is_the_golden(golden: dict[str, Tensor]) -> None:
    extrinsics = pytorch3d_to_opencv(golden["pytorch3d/R"], golden["pytorch3d/T"])
    assert extrinsics.dtype == np.float64
    np.testing.assert_array_equal(extrinsics, golden["pytorch3d/extrinsics_opencv"].numpy())


def test_pytorch3d_one_camera_from_lists(golden: dict[str, Tensor]) -> None:
    extrinsics = pytorch3d_to_opencv(golden["pytorch3d/R"][0].tolist(), golden["pytorch3d/T"][0].tolist())
    np.testing.assert_array_equal(extrinsics, golden["pytorch3d/extrinsics_opencv"][0].numpy())


@quick
@given(seeds)
def test_pytorch3d_round_trip_is_exact(seed: int) -> None:
    extrinsics = random_extrinsics(np.random.default_rng(seed), 3).numpy()
    np.testing.assert_array_equal(pytorch3d_to_opencv(*opencv_to_pytorch3d(extrinsics)), extrinsics)
    square = to_homogeneous(torch.from_numpy(extrinsics)).numpy()
    np.testing.assert_array_equal(opencv_to_pytorch3d(square)[0], opencv_to_pytorch3d(extrinsics)[0])


def test_pytorch3d_axes_flip_left_and_up() -> None:
    # A point that PyTorch3D sees to the left (+x) and up (+y) is at negative x and y for OpenCV.
    rng = np.random.default_rng(0)
    rotation, translation, point = Rotation.random(None, rng).as_matrix(), rng.normal(size=3), rng.normal(size=3)
    seen = point @ rotation + translation
    extrinsics = pytorch3d_to_opencv(rotation, translation)
    np.testing.assert_allclose(extrinsics[:, :3] @ point + extrinsics[:, 3], seen * [-1, -1, 1], atol=1e-14)


@pytest.mark.parametrize(("r", "t"), [((2, 3, 3), (3,)), ((3, 4), (3,)), ((3, 3), (4,))])
def test_pytorch3d_rejects_wrong_shapes(r: tuple[int, ...], t: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected R"):
        pytorch3d_to_opencv(np.zeros(r), np.zeros(t))
    with pytest.raises(ValueError, match="expected E"):
        opencv_to_pytorch3d(np.zeros(t))


# --- quaternions --------------------------------------------------------------------------------------------------


@quick
@given(seeds, st.floats(-30, 30), st.sampled_from([torch.float32, torch.float64]))
def test_quaternion_to_matrix_equals_scipy_at_any_length(seed: int, exponent: float, dtype: torch.dtype) -> None:
    quaternion = np.random.default_rng(seed).normal(size=(8, 4))
    expected = Rotation.from_quat(quaternion).as_matrix()  # SciPy: scalar last, normalised
    matrix = quaternion_to_matrix(torch.from_numpy(quaternion * 10.0**exponent).to(dtype))
    assert matrix.dtype == dtype
    np.testing.assert_allclose(matrix.numpy(), expected, atol=1e-6 if dtype == torch.float32 else 1e-14)


@quick
@given(seeds, st.sampled_from([0.0, 1e-9, 1e-3, math.pi / 2, math.pi - 1e-9, math.pi]))
def test_matrix_to_quaternion_equals_scipy_at_any_angle(seed: int, angle: float) -> None:
    axes = np.random.default_rng(seed).normal(size=(8, 3))
    rotation = Rotation.from_rotvec(axes / np.linalg.norm(axes, axis=1, keepdims=True) * angle)
    quaternion = matrix_to_quaternion(torch.from_numpy(rotation.as_matrix())).numpy()
    assert (quaternion[:, 3] >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=1), 1, atol=1e-15)
    similarity = np.abs((quaternion * rotation.as_quat()).sum(-1))  # q and -q are one rotation; at pi both have w = 0
    np.testing.assert_allclose(similarity, 1, atol=1e-14)


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0], [0, -0.6, 0.8]])
def test_half_turns_survive_the_round_trip(axis: list[float]) -> None:
    # w = 0 and some components exactly 0: the cases where a formula with a fixed pivot divides by zero.
    matrix = torch.from_numpy(Rotation.from_rotvec(np.array(axis) * math.pi).as_matrix())
    back = quaternion_to_matrix(matrix_to_quaternion(matrix))
    torch.testing.assert_close(back, matrix, atol=1e-15, rtol=0)


@quick
@given(seeds)
def test_matrix_round_trip_in_float32(seed: int) -> None:
    matrix = random_extrinsics(np.random.default_rng(seed), 16)[:, :, :3].float().reshape(2, 8, 3, 3)
    torch.testing.assert_close(quaternion_to_matrix(matrix_to_quaternion(matrix)), matrix, atol=1e-6, rtol=0)


def test_zero_quaternion_is_the_identity() -> None:
    torch.testing.assert_close(quaternion_to_matrix(torch.zeros(2, 4)), torch.eye(3).expand(2, 3, 3))


# --- extrinsics ---------------------------------------------------------------------------------------------------


@quick
@given(seeds)
def test_invert_extrinsics_is_the_matrix_inverse(seed: int) -> None:
    extrinsics = random_extrinsics(np.random.default_rng(seed), 4)
    square = to_homogeneous(extrinsics)
    assert square.shape == (4, 4, 4)
    torch.testing.assert_close(invert_extrinsics(square), torch.linalg.inv(square), atol=1e-12, rtol=0)
    torch.testing.assert_close(invert_extrinsics(extrinsics), invert_extrinsics(square)[:, :3])
    torch.testing.assert_close(invert_extrinsics(invert_extrinsics(extrinsics)), extrinsics)


# --- pose encoding ------------------------------------------------------------------------------------------------


def test_decode_pose_is_the_golden(golden: dict[str, Tensor]) -> None:
    extrinsics, intrinsics = decode_pose(golden["pose_enc/encoding"], HEIGHT, WIDTH)
    torch.testing.assert_close(extrinsics, golden["pose_enc/extrinsics"], atol=5e-7, rtol=0)
    torch.testing.assert_close(intrinsics, golden["pose_enc/intrinsics"], atol=0, rtol=5e-7)


def test_encode_pose_is_the_golden(golden: dict[str, Tensor]) -> None:
    encoding = encode_pose(golden["pose_enc/extrinsics"], golden["pose_enc/intrinsics"], HEIGHT, WIDTH)
    torch.testing.assert_close(encoding, golden["pose_enc/reencoded"], atol=5e-7, rtol=0)


@quick
@given(seeds)
def test_pose_encoding_round_trip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    extrinsics = random_extrinsics(rng, 6).reshape(2, 3, 3, 4)
    quaternion = matrix_to_quaternion(extrinsics[..., :3])
    fov = torch.from_numpy(rng.uniform(0.1, 2.5, (2, 3, 2)))
    encoding = torch.cat([extrinsics[..., 3], quaternion, fov], dim=-1)
    decoded = decode_pose(encoding, 280, 518)
    torch.testing.assert_close(decoded[0], extrinsics, atol=1e-14, rtol=0)
    torch.testing.assert_close(encode_pose(*decoded, 280, 518), encoding, atol=1e-13, rtol=0)


def test_first_field_of_view_is_the_vertical_one() -> None:
    encoding = torch.tensor([0, 0, 0, 0, 0, 0, 1, math.pi / 2, 2 * math.atan(2)], dtype=torch.float64)
    _, intrinsics = decode_pose(encoding, 280, 518)
    expected = torch.tensor([[129.5, 0, 259], [0, 140, 140], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(intrinsics, expected)


@pytest.mark.parametrize("fov", [0.0, 1e-12, math.pi, 4.0, 1e6])
def test_degenerate_field_of_view_gives_a_positive_finite_focal_length(fov: float) -> None:
    encoding = torch.tensor([0, 0, 0, 0, 0, 0, 1, fov, fov])
    _, intrinsics = decode_pose(encoding, HEIGHT, WIDTH)
    focal = intrinsics.diagonal()[:2]
    assert torch.isfinite(intrinsics).all()
    assert (focal > 0).all()
    if fov < MIN_FOV:
        torch.testing.assert_close(focal, torch.tensor([WIDTH, HEIGHT]) * 1e3, rtol=1e-6, atol=0)


# --- points -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 2e-7)])
def test_unproject_is_the_golden(golden: dict[str, Tensor], dtype: torch.dtype, atol: float) -> None:
    names = ("depth", "extrinsics", "intrinsics")
    points = unproject(*(golden[f"unproject/{name}"].to(dtype) for name in names))
    assert points.dtype == dtype
    torch.testing.assert_close(points.double(), golden["unproject/world_points"], atol=atol, rtol=0)


@quick
@given(seeds)
def test_unproject_then_project_returns_pixels_and_depth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 5, 7
    depth = torch.from_numpy(rng.uniform(0.5, 4, (2, 3, height, width)))
    extrinsics = random_extrinsics(rng, 6).reshape(2, 3, 3, 4)
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(2, 3, 1, 1)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = 6.0, 9.0
    intrinsics[..., :2, 2] = torch.from_numpy(rng.uniform(1, 5, (2, 3, 2)))
    points = unproject(depth, extrinsics, intrinsics)
    torch.testing.assert_close(points, unproject(depth[..., None], to_homogeneous(extrinsics), intrinsics))
    pixels, seen = project(points.flatten(2, 3), extrinsics, intrinsics)
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    expected = torch.stack([u, v], -1).double().reshape(-1, 2).expand(2, 3, -1, 2)
    torch.testing.assert_close(pixels, expected, atol=1e-11, rtol=0)
    torch.testing.assert_close(seen, depth.flatten(2), atol=1e-12, rtol=0)


def test_unproject_rejects_disagreeing_shapes() -> None:
    with pytest.raises(ValueError, match="expected depth"):
        unproject(torch.ones(2, 4, 4), torch.zeros(3, 3, 4), torch.zeros(3, 3, 3))
