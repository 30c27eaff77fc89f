"""Depth metrics on hand-computed and random cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt.errors import QvggtError
from qvggt.eval.depth import depth_errors

seeds = st.integers(0, 2**32 - 1)
quick = settings(deadline=None, max_examples=25)


def test_hand_computed_without_alignment() -> None:
    gt = np.array([[1.0, 2.0, 4.0, 0.0]])  # the last pixel is not valid
    pred = np.array([[1.1, 2.6, 3.0, 9.0]])  # ratios 1.1, 1.3, 1.333
    errors = depth_errors(pred, gt, align="none")
    assert errors.abs_rel == pytest.approx((0.1 + 0.3 + 0.25) / 3, abs=1e-15)
    assert errors.delta1 == pytest.approx(1 / 3)
    assert (errors.scale, errors.pixels) == (1.0, 3)


def test_hand_computed_with_the_median_scale() -> None:
    gt = np.array([[[2.0, 4.0], [8.0, -1.0]]])
    pred = np.array([[[1.0, 1.0], [4.0, 7.0]]])  # median 1 against 4: scaled to 4, 4, 16
    errors = depth_errors(pred, gt)
    assert errors.scale == 4.0
    assert errors.abs_rel == pytest.approx((1 + 0 + 1) / 3)
    assert errors.delta1 == pytest.approx(1 / 3)


def test_the_inlier_bound_is_exclusive() -> None:
    assert depth_errors(np.array([1.25, 0.8, 1.2499]), np.ones(3), align="none").delta1 == pytest.approx(1 / 3)


def test_one_scale_per_sequence_not_per_frame() -> None:
    gt = np.ones((2, 3, 3))
    pred = gt * np.array([1.0, 2.0])[:, None, None]  # frames disagree by a factor of two
    assert depth_errors(pred, gt).delta1 == 0.0


@quick
@given(seeds, st.floats(1e-3, 1e3))
def test_median_alignment_ignores_the_scale_of_the_prediction(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    gt = rng.uniform(0.1, 5, (2, 4, 5, 1)) * (rng.random((2, 4, 5, 1)) > 0.2)
    pred = rng.uniform(0.1, 5, gt.shape)
    base, scaled = depth_errors(pred, gt), depth_errors(pred * factor, gt)
    assert scaled.abs_rel == pytest.approx(base.abs_rel, rel=1e-9)
    assert scaled.scale * factor == pytest.approx(base.scale, rel=1e-9)
    assert depth_errors(gt * factor + (gt == 0), gt).abs_rel == pytest.approx(0, abs=1e-12)


def test_float32_tensors_are_compared_in_float64() -> None:
    rng = np.random.default_rng(1)
    gt, pred = (torch.from_numpy(rng.uniform(1, 2, (2, 8, 8))).float() for _ in range(2))
    assert depth_errors(pred, gt) == depth_errors(pred.double().numpy(), gt.double().numpy())


def test_broken_predictions_show() -> None:
    gt = np.full(4, 2.0)
    one_nan = depth_errors(np.array([2.0, 2.0, 2.0, np.nan]), gt)
    assert math.isnan(one_nan.abs_rel)
    assert (one_nan.scale, one_nan.delta1) == (1.0, 0.75)
    for pred in (np.zeros(4), -gt, gt * np.nan):
        errors = depth_errors(pred, gt)
        assert errors.delta1 == 0.0
        assert not math.isfinite(errors.abs_rel)
    assert depth_errors(-gt, gt, align="none").delta1 == 0.0


def test_pixels_without_ground_truth_do_not_count() -> None:
    gt = np.array([2.0, 0.0, -1.0, np.nan, np.inf])
    errors = depth_errors(np.array([2.0, np.nan, 1.0, 1.0, 1.0]), gt)
    assert (errors.abs_rel, errors.delta1, errors.pixels) == (0.0, 1.0, 1)


def test_user_mistakes_are_named() -> None:
    with pytest.raises(QvggtError, match="at least one pixel > 0"):
        depth_errors(np.ones((2, 2)), np.zeros((2, 2)))
    with pytest.raises(QvggtError, match=r"expected shape \(2, 2\)"):
        depth_errors(np.ones((2, 2, 1)), np.ones((2, 2)))
    with pytest.raises(QvggtError, match="expected one of median, none"):
        depth_errors(np.ones(2), np.ones(2), align="mean")  # type: ignore[arg-type]
