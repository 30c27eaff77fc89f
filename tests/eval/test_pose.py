"""Pairwise pose errors and AUC against the published protocol's stored results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from scipy.spatial.transform import Rotation

from qvggt.errors import QvggtError
from qvggt.eval.metrics import pose_auc
from qvggt.eval.pose import PoseErrors, accuracy, auc, pairwise_errors

GOLDEN = Path(__file__).parents[1] / "data" / "geometry_reference.safetensors"
CASES = range(4)

seeds = st.integers(0, 2**32 - 1)
quick = settings(deadline=None, max_examples=25)


def load(name: str) -> NDArray[np.float64]:
    with safe_open(GOLDEN, "numpy") as file:
        return np.asarray(file.get_tensor(name))


def errors_of(case: int) -> PoseErrors:
    return pairwise_errors(load(f"pose_{case}/pred_w2c"), load(f"pose_{case}/gt_w2c"))


def random_poses(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, rng).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(count, 3))
    return poses


@pytest.mark.parametrize("case", CASES)
def test_pairwise_errors_are_the_golden(case: int) -> None:
    errors = errors_of(case)
    np.testing.assert_allclose(errors.rotation_deg, load(f"pose_{case}/rotation_error_deg"), atol=1e-9, rtol=0)
    np.testing.assert_allclose(errors.translation_deg, load(f"pose_{case}/translation_error_deg"), atol=1e-9, rtol=0)


def test_pooled_auc_is_the_golden() -> None:
    with safe_open(GOLDEN, "numpy") as file:
        expected = {int(key): value for key, value in json.loads(file.metadata()["auc_pooled"]).items()}
    assert pose_auc([errors_of(case) for case in CASES]) == pytest.approx(expected, abs=1e-12)


def test_auc_example_of_the_spec() -> None:
    # The last bin is closed: 3.0 counts, 3.1 does not. Cumulated fractions 0.2, 0.4, 0.8.
    errors = np.array([0.5, 1.0, 2.9, 3.0, 3.1])
    assert auc(errors, 3) == pytest.approx(0.46667, abs=5e-6)
    assert auc(errors, 3) == pytest.approx((0.2 + 0.4 + 0.8) / 3, abs=1e-15)


def test_auc_of_perfect_wrong_and_broken_errors() -> None:
    assert auc(np.zeros(7), 5) == 1.0
    assert auc(np.full(7, 5.1), 5) == 0.0
    assert auc(np.array([0.0, np.nan, np.inf, 0.0]), 5) == 0.5  # broken pairs stay in the denominator


@quick
@given(st.lists(st.floats(0, 180), min_size=1, max_size=40), st.integers(1, 30))
def test_auc_equals_the_mean_accuracy_at_whole_degrees(errors: list[float], threshold: int) -> None:
    # Independent of histograms: the fraction below 1, 2, ..., T, where only T itself is included.
    values = np.array(errors)
    below = [(values < t).mean() for t in range(1, threshold)] + [(values <= threshold).mean()]
    assert auc(values, threshold) == pytest.approx(np.mean(below), abs=1e-12)


@quick
@given(seeds, st.floats(0.01, 100))
def test_errors_ignore_world_frame_and_scale_of_the_prediction(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    gt, pred = random_poses(rng, 5), random_poses(rng, 5)
    moved = pred @ random_poses(rng, 1)[0]  # another world frame: E' = E G
    moved[:, :3, 3] *= scale
    before, after = pairwise_errors(pred, gt), pairwise_errors(moved, gt @ random_poses(rng, 1)[0])
    np.testing.assert_allclose(after.rotation_deg, before.rotation_deg, atol=1e-4)  # arccos is steep near 180 degrees
    np.testing.assert_allclose(after.translation_deg, before.translation_deg, atol=1e-5)


@quick
@given(seeds)
def test_equal_trajectories_have_no_error(seed: int) -> None:
    gt = random_poses(np.random.default_rng(seed), 6)
    errors = pairwise_errors(gt[:, :3], gt[:, :3])
    assert errors.rotation_deg.shape == errors.translation_deg.shape == (15,)
    # arccos near 1 turns rounding of some 1e-16 into its square root, about 1e-5 degrees
    assert errors.worst_deg.max() < 1e-4
    assert pose_auc([errors]) == {30: 1.0, 15: 1.0, 5: 1.0, 3: 1.0}


@pytest.mark.parametrize("unit", [1.0, 1e6])
def test_equal_directions_are_no_failures_in_any_unit(unit: float) -> None:
    """The cosine of equal directions may come out a rounding above 1, whose arccos is not a number: a failed pair."""
    gt = random_poses(np.random.default_rng(0), 60)
    gt[:, :3, 3] *= unit
    assert pairwise_errors(gt, gt).worst_deg.max() < 1e-4


def test_rotation_error_is_the_angle_and_pairs_are_ordered() -> None:
    gt = np.tile(np.eye(4), (3, 1, 1))
    gt[:, 0, 3] = [0, 1, 3]
    pred = gt.copy()
    pred[2, :3, :3] = Rotation.from_euler("x", 20, degrees=True).as_matrix()  # frame 2 is in pairs 1 and 2 of 3
    errors = pairwise_errors(torch.from_numpy(pred).float(), gt)
    np.testing.assert_allclose(errors.rotation_deg, [0, 20, 20], atol=1e-4)


def test_translation_error_has_no_sign() -> None:
    gt = np.tile(np.eye(4), (2, 1, 1))
    gt[1, :3, 3] = [1, 2, 3]
    pred = gt.copy()
    pred[1, :3, 3] *= -2
    assert pairwise_errors(pred, gt).translation_deg[0] < 1e-5


def test_cameras_at_one_place_count_as_ninety_degrees() -> None:
    gt = np.tile(np.eye(4), (2, 1, 1))
    assert pairwise_errors(gt, gt).translation_deg[0] == pytest.approx(90)


def test_not_a_number_in_the_prediction_is_wrong_at_every_threshold() -> None:
    rng = np.random.default_rng(0)
    gt = random_poses(rng, 3)
    pred = gt.copy()
    pred[2, 0, 0] = np.nan
    errors = pairwise_errors(pred, gt)
    assert np.isfinite(errors.worst_deg).all()
    assert (errors.rotation_deg > 360).tolist() == [False, True, True]
    assert pose_auc([errors], [30]) == {30: pytest.approx(1 / 3)}
    pred = gt.copy()
    pred[2, 0, 3] = np.inf
    assert (pairwise_errors(pred, gt).translation_deg > 360).tolist() == [False, True, True]


def test_errors_are_numpy_arrays_of_float64_whatever_the_poses_are() -> None:
    """Also of a prediction on its way through autograd, in half precision: all that follows is float64."""
    poses = torch.from_numpy(random_poses(np.random.default_rng(0), 3)).to(torch.bfloat16).requires_grad_()
    gt = random_poses(np.random.default_rng(1), 3)
    errors, exact = pairwise_errors(poses, gt), pairwise_errors(poses.detach().double(), gt)
    assert np.array_equal(errors.rotation_deg, exact.rotation_deg)
    assert np.array_equal(errors.translation_deg, exact.translation_deg)
    for values in (errors.rotation_deg, errors.translation_deg, errors.worst_deg):
        assert type(values) is np.ndarray
        assert values.dtype == np.float64


def test_accuracy_is_strict() -> None:
    assert accuracy(np.array([1.0, 4.9, 5.0, np.nan]), 5) == 0.5


def test_user_mistakes_are_named() -> None:
    gt = random_poses(np.random.default_rng(0), 3)
    with pytest.raises(QvggtError, match="expected 3 as in the ground truth, got 2"):
        pairwise_errors(gt[:2], gt)
    with pytest.raises(QvggtError, match=r"predicted poses: expected shape .* got \[1, 4, 4\]"):
        pairwise_errors(gt[:1], gt[:1])
    with pytest.raises(QvggtError, match="ground-truth poses: expected finite"):
        pairwise_errors(gt, gt * np.nan)
    with pytest.raises(QvggtError, match="at least one pair"):
        auc(np.array([]), 5)
    for threshold in (0, -1, 0.5, 2.5):
        with pytest.raises(QvggtError, match="whole number of degrees"):
            auc(np.array([1.0]), threshold)  # type: ignore[arg-type]
    for shape in ((3, 2, 4), (3, 4, 3), (3, 16), (1, 3, 3, 4)):
        with pytest.raises(QvggtError, match=r"ground-truth poses: expected shape \[S >= 2, 3 or 4, 4\], got"):
            pairwise_errors(gt, np.ones(shape))
    with pytest.raises(QvggtError, match="at least one sequence"):
        pose_auc([])
