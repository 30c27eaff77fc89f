from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from qvggt.errors import QvggtError
from qvggt.eval.similarity import Similarity, fit_robust, fit_similarity
from qvggt.geometry import project

RNG = np.random.default_rng(0)
TRUTH = Similarity(1.7, Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix(), np.array([3.0, -2.0, 0.5]))


def close(found: Similarity, tolerance: float) -> bool:
    differences = (found.scale - TRUTH.scale, found.rotation - TRUTH.rotation, found.translation - TRUTH.translation)
    return all(np.abs(d).max() < tolerance for d in differences)


@pytest.mark.parametrize("flat", [False, True], ids=["space", "plane"])
def test_exact_points_give_it_back(flat: bool) -> None:
    source = RNG.normal(size=(50, 3))
    if flat:
        source[:, 2] = 0.4
    found = fit_similarity(source, TRUTH.points(source), RNG.uniform(0.1, 2, 50))
    assert close(found, 1e-10)
    assert np.linalg.det(found.rotation) == pytest.approx(1)


def test_weight_zero_is_not_there() -> None:
    source = RNG.normal(size=(50, 3))
    target, weights = TRUTH.points(source), np.ones(50)
    target[:20] += 5
    weights[:20] = 0
    assert close(fit_similarity(source, target, weights), 1e-10)


def test_a_third_of_wrong_points_hardly_matters() -> None:
    source = RNG.normal(size=(3000, 3))
    target = TRUTH.points(source) + RNG.normal(0, 0.001, source.shape)
    target[::3] += RNG.normal(0, 2, target[::3].shape) + 1
    assert not close(fit_similarity(source, target, np.ones(3000)), 0.05)
    found, residuals = fit_robust(source, target, np.ones(3000))
    assert close(found, 0.001)
    assert np.median(residuals) < 0.01


def test_cameras_keep_seeing_the_same() -> None:
    points = RNG.normal(size=(1, 20, 3)) + np.array([0, 0, 6])
    extrinsics = np.array([[[1.0, 0, 0, 0.2], [0, 1, 0, -0.1], [0, 0, 1, 0.4]]])
    k = np.array([[[80.0, 0, 35], [0, 90, 28], [0, 0, 1]]])
    before, depth = project(*map(torch.from_numpy, (points, extrinsics, k)))
    after, new_depth = project(*map(torch.from_numpy, (TRUTH.points(points), TRUTH.extrinsics(extrinsics), k)))
    assert torch.allclose(before, after)
    assert torch.allclose(depth * TRUTH.scale, new_depth)


@pytest.mark.parametrize("source", [np.zeros((9, 3)), np.outer(np.arange(9.0), [1, 2, 3]), np.eye(3)[:2]])
def test_points_without_a_rotation(source: np.ndarray) -> None:
    with pytest.raises(QvggtError, match="similarity"):
        fit_similarity(source, TRUTH.points(source), np.ones(len(source)))
