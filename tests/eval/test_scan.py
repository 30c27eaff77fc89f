"""DTU's distances: thinned points, only where the scanner saw, above the table, pairs within 20 mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mvs_data import small_views, world_points, write_dtu, write_ply
from scipy.io import savemat
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from qvggt.data.dtu import read_dtu
from qvggt.data.registry import Question, find_dataset
from qvggt.data.scan import Scan
from qvggt.eval.harness import Protocol, Truth
from qvggt.eval.points import PointConfig, point_errors
from qvggt.eval.scan import SPACING, TrueScan, thinned


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    """Three points above a table at z = 0 and one below it; cells of 10 mm, that of (20, 0, 0) was not seen."""
    write_ply(tmp_path / "s.ply", np.array([[0.0, 0, 1], [10, 0, 1], [60, 0, 1], [0, 0, -1]]))
    seen = np.ones((8, 3, 3), np.uint8)
    seen[3, 1, 1] = 0
    savemat(tmp_path / "o.mat", {"ObsMask": seen, "BB": [[-10.0, -10, -10], [70, 20, 20]], "Res": 10.0})
    savemat(tmp_path / "p.mat", {"P": [[0.0, 0, 1, 0]]})
    return Scan(tmp_path / "s.ply", tmp_path / "o.mat", tmp_path / "p.mat")


def test_what_counts(scan: Scan) -> None:
    turn = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    first = np.concatenate([turn, [[1.0], [2.0], [3.0]]], axis=1)
    world = np.array(
        [
            [0.0, 0, 3],  # 2 mm off; a second one in the same place is thinned out
            [0.0, 0, 3.05],
            [10, 1, 1],  # 1 mm off
            [20, 0, 2],  # in the cell that nobody saw: no matter for accuracy
            [33, 0, 1],  # 23 mm off: left out
            [0, 0, 500],  # beyond the box
        ]
    )
    found = TrueScan(scan, first).distances(world @ turn.T + first[:, 3])
    assert found.acc == pytest.approx(np.mean([2, 1]), abs=0.06)  # which of the two stays is chance
    assert found.acc_median == pytest.approx(1.5, abs=0.06)
    assert found.comp == pytest.approx(np.mean([2, 1]), abs=0.06)  # of (60, 0, 1) the nearest is 27 mm away
    assert found.nc1 is None
    nothing = TrueScan(scan, first).distances(np.empty((0, 3)))
    assert np.isnan([nothing.acc, nothing.comp_median]).all()
    blind = TrueScan(scan, first).distances(world[3:4] @ turn.T + first[:, 3])
    assert np.isnan(blind.acc)
    assert blind.comp == pytest.approx(np.hypot(10, 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(0, 1000), st.sampled_from([2, 3]))
def test_thinning_is_one_by_one(count: int, seed: int, dimensions: int) -> None:
    points = np.zeros((count, 3))
    points[:, :dimensions] = np.random.default_rng(seed).random((count, dimensions))
    kept = thinned(points, SPACING)
    if len(kept) > 1:
        assert pdist(kept).min() > SPACING
    if count:
        assert cKDTree(kept).query(points)[0].max() <= 2 * SPACING
    assert {tuple(p) for p in kept} <= {tuple(p) for p in points}


def test_thinning_takes_the_first_come() -> None:
    points = np.random.default_rng(0).random((400, 3)) * [5, 5, 0]
    kept = thinned(points, SPACING)
    order = np.random.default_rng(0).permutation(points)
    by_hand: list[np.ndarray] = []
    cells = set()
    for point in order:
        cell = tuple(np.floor(point / (SPACING / 3**0.5)).astype(int))
        if cell not in cells and all(np.linalg.norm(point - other) > SPACING for other in by_hand):
            by_hand.append(point)
        cells.add(cell)
    np.testing.assert_array_equal(kept, by_hand)


def test_a_prediction_in_its_own_world(tmp_path: Path) -> None:
    """Any similarity is undone, and what is left is the error in millimetres."""
    _, views = small_views(3, 3)
    write_dtu(tmp_path, 1, views)
    (sequence,) = read_dtu(Question(tmp_path))
    height, width = views.depth.shape[1:]
    truth = Truth(
        np.stack([sequence.depth_reader(path) for path in sequence.depth_paths]),
        sequence.intrinsics,
        sequence.extrinsics,
        TrueScan(sequence.scan, sequence.extrinsics[0]),
    )
    config = PointConfig(backend="scipy", **find_dataset("dtu").points)
    true = truth.as_points(Protocol(("pose", "points"), points=config), "scan1/all")
    turn = Rotation.from_euler("xyz", [40, -20, 100], degrees=True).as_matrix()
    predicted = 0.01 * (world_points(views) @ turn.T) + [1, 2, 3]
    exact = point_errors(predicted, true)
    assert exact.predicted == 3 * height * width
    assert max(exact.acc, exact.comp) < 0.02  # what thinning leaves, and single precision of the files
    assert exact.scale == pytest.approx(100, rel=1e-4)
    noise = np.random.default_rng(0).normal(size=predicted.shape)
    noisy = point_errors(predicted + 0.02 * noise, true)  # 2 mm
    assert 0.5 < noisy.acc < 3.5
    assert noisy.overall == (noisy.acc + noisy.comp) / 2
    assert noisy.nc is None
