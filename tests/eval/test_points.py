"""Acc, Comp and NC of predictions whose error is known; the alignment does what the protocol says and no more."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from qvggt import QvggtError
from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.eval import clouds
from qvggt.eval.alignment import align, lower_median
from qvggt.eval.points import PointConfig, TruePoints, point_errors, predicted_points, true_points
from qvggt.eval.registration import Pairs
from qvggt.eval.similarity import fit_similarity
from qvggt.geometry import encode_pose
from qvggt.predictions import Predictions

GOLDEN = Path(__file__).parents[1] / "data" / "geometry_reference.safetensors"
NO_ICP = 1e-9  # no pair is that close
SIZE = 42

try:
    clouds.import_open3d()
    BACKENDS = ["scipy", "open3d"]
except QvggtError:
    BACKENDS = ["scipy"]


@pytest.fixture(scope="module")
def views():
    config = SceneConfig(height=SIZE, width=SIZE, frames=3)
    return render(sample_scene(config, 5), config)


@pytest.fixture(scope="module")
def truth(views):
    return true_points(views.depth, views.extrinsics, views.intrinsics)


def errors(predicted, truth, valid=None, **config):
    valid = np.ones(truth.shape[:-1], bool) if valid is None else valid
    return point_errors(predicted, TruePoints(truth, valid, PointConfig(**{"backend": "scipy", **config}), "key"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_perfect_prediction(truth, backend):
    found = errors(truth.astype(np.float32), truth, backend=backend)
    assert max(found.acc, found.comp, found.acc_median, found.comp_median) < 1e-6
    assert min(found.nc, found.nc_median, found.nc1, found.nc2) > 0.999
    assert found.scale == pytest.approx(1)
    assert found.predicted == found.truth == truth.size // 3


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 20), st.floats(-5, 5))
def test_scale_and_depth_shift_are_aligned(scale, shift):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2, 6, 7, 3))
    found = errors(scale * truth + [0, 0, shift], truth, icp=NO_ICP)
    assert max(found.acc, found.comp) < 1e-9
    assert found.scale == pytest.approx(1 / scale)


def test_a_shift_across_is_left_to_icp(truth):
    moved = truth + np.array([0.03, -0.02, 0])
    raw = errors(moved, truth, icp=NO_ICP)
    nearest = cKDTree(truth.reshape(-1, 3)).query(moved.reshape(-1, 3))[0]
    assert raw.acc == pytest.approx(nearest.mean())
    assert raw.acc_median == pytest.approx(np.median(nearest))
    assert raw.acc > 0.005
    found = errors(moved, truth)
    assert max(found.acc, found.comp) < 1e-3


def test_a_shift_beyond_the_reach_of_icp_stays(truth):
    moved = truth + np.array([30.0, 0, 0])
    far = errors(moved, truth)
    assert far.acc == pytest.approx(errors(moved, truth, icp=NO_ICP).acc)
    assert far.acc > 10


def test_a_rotation_is_not_aligned_but_by_sim3(truth):
    turned = truth @ Rotation.from_euler("y", 25, degrees=True).as_matrix().T
    aligned = align(truth, turned, np.ones(truth.shape[:-1], bool))
    # of a rotation, alignment takes the z median and the spread, nothing else
    shift = lower_median(turned[..., 2].ravel()) * np.array([0, 0, 1])
    assert np.allclose(aligned.predicted, (turned - shift) * aligned.scale)
    assert errors(turned, truth).acc > 0.05
    fitted = errors(turned, truth, sim3=True)
    assert max(fitted.acc, fitted.comp) < 1e-6
    assert fitted.scale == pytest.approx(1)


def test_noise_costs_what_it_is(truth):
    rng = np.random.default_rng(1)
    small, large = (errors(truth + rng.normal(0, s, truth.shape), truth) for s in (0.005, 0.05))
    assert 0.001 < small.acc < 0.01
    assert small.acc < large.acc < 0.1
    assert large.comp > small.comp
    assert large.nc < small.nc < errors(truth, truth).nc


def test_what_is_missing_costs_completeness_only(truth):
    predicted = truth.copy()
    predicted[1] = np.nan  # a whole view
    predicted[0, 0, 0, 1] = np.inf  # one coordinate takes its row along, and no other
    found = errors(predicted, truth, icp=NO_ICP)
    aligned = align(truth, predicted, np.ones(truth.shape[:-1], bool))
    kept = np.isfinite(aligned.predicted).all(-1)
    nearest = cKDTree(aligned.predicted[kept]).query(aligned.truth.reshape(-1, 3))[0]
    assert found.comp == pytest.approx(nearest.mean())
    assert found.predicted == kept.sum() == 2 * SIZE * SIZE - 1
    assert found.truth == 3 * SIZE * SIZE


def test_only_pixels_with_truth_in_the_middle_count(truth):
    valid = np.ones(truth.shape[:-1], bool)
    valid[:, :, ::2] = False
    predicted = truth.copy()
    predicted[~valid] = 1e6
    found = errors(predicted, truth, valid, crop=20)
    assert found.acc < 1e-9
    assert found.truth == 3 * 20 * 10
    # 20 of 42 pixels: rows and columns 11 to 30
    outside = np.ones((SIZE, SIZE), bool)
    outside[11:31, 11:31] = False
    predicted = truth.copy()
    predicted[:, outside] = np.nan
    assert errors(predicted, truth, crop=20).predicted == 3 * 20 * 20


def test_subsampling_is_seeded_by_the_sequence(truth):
    config = PointConfig(limit=500, backend="scipy")
    valid = np.ones(truth.shape[:-1], bool)
    noisy = truth + np.random.default_rng(0).normal(0, 0.02, truth.shape)
    a, b, c = (point_errors(noisy, TruePoints(truth, valid, config, key)) for key in ("s", "s", "t"))
    assert a == b
    assert a.acc != c.acc
    assert (a.predicted, a.truth) == (500, 500)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prediction_of_nothing_is_nan_not_a_crash(truth, value):
    found = errors(np.full(truth.shape, value), truth)
    assert math.isnan(found.acc)
    assert math.isnan(found.nc)
    assert found.predicted == 0


def test_a_collapsed_prediction_is_kept_within_a_thousandfold(truth):
    found = errors(truth * 0 + [0, 0, 1.0], truth, icp=NO_ICP)
    aligned = align(truth, truth * 0 + [0, 0, 1.0], np.ones(truth.shape[:-1], bool))
    assert found.scale == aligned.scale
    assert np.isfinite(found.acc)
    spread = lower_median(np.linalg.norm(truth - np.median(truth, (0, 1, 2)), axis=-1).ravel())
    assert aligned.scale == pytest.approx(spread / 1e-3, rel=0.02)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12))
def test_lower_median_is_torchs(values):
    assert lower_median(np.array(values)) == torch.tensor(values, dtype=torch.float64).nanmedian().item()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_a_similarity_is_recovered(seed, scale):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(20, 3))
    rotation, shift = Rotation.random(rng=rng).as_matrix(), rng.normal(size=3)
    found = fit_similarity(source, scale * source @ rotation.T + shift)
    assert np.allclose(found.rotation, rotation)
    assert found.scale == pytest.approx(scale)
    assert np.allclose(found.translation, shift)
    mirrored = fit_similarity(source, source * [1, 1, -1])
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1)
    assert fit_similarity(source, 3 * source, rigid=True).scale == 1


def test_golden_unprojection():
    """The stored points of the original code, moved into the first camera."""
    with safe_open(GOLDEN, "numpy") as file:
        names = {name: file.get_tensor(name) for name in file.keys() if "unproject" in name}  # noqa: SIM118
    get = {name.split("/")[-1]: value.astype(np.float64) for name, value in names.items()}
    depth = get["depth"].reshape(get["depth"].shape[:3])
    extrinsics = get["extrinsics"]
    found = true_points(depth, extrinsics, get["intrinsics"])
    world = (found - extrinsics[0, :3, 3]) @ extrinsics[0, :3, :3]
    assert np.allclose(world, get["world_points"], atol=1e-4)


def test_points_of_predictions(views, truth):
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("z", 40, degrees=True).as_matrix()
    encoding = encode_pose(
        torch.from_numpy(views.extrinsics @ moved), torch.from_numpy(views.intrinsics), SIZE, SIZE
    ).numpy()
    made = Predictions(encoding.astype(np.float32), depth=views.depth, world_points=truth.astype(np.float32))
    found = predicted_points(made, SIZE, SIZE)
    assert np.abs(found["unproj"] - truth).max() < 1e-4  # in the first camera, whatever the predicted world is
    assert found["head"] is made.world_points
    assert predicted_points(Predictions(made.pose_enc), SIZE, SIZE) == {}


@pytest.mark.skipif("open3d" not in BACKENDS, reason="Open3D does not load here")
def test_scipy_and_open3d_agree(truth):
    rng = np.random.default_rng(0)
    noisy = truth + rng.normal(0, 0.01, truth.shape) + [0.03, 0.02, 0]
    one, other = errors(noisy, truth, backend="scipy"), errors(noisy, truth, backend="open3d")
    for name, value in vars(one).items():
        assert value == pytest.approx(getattr(other, name), rel=1e-8), name


def test_pairs_that_last_are_those_of_fresh_queries(truth):
    """Whatever the motion: small steps, on which few points are asked for again, and a leap."""
    rng = np.random.default_rng(0)
    targets = truth.reshape(-1, 3)
    tree = cKDTree(targets)
    asked: list[int] = []

    class Tree:
        data = targets

        def query(self, points, **options):
            asked.append(len(points))
            return tree.query(points, **options)

    moved = targets + rng.normal(0, 0.05, targets.shape)
    pairs = Pairs(Tree(), 0.05)
    for step in (0.0, 0.001, 0.001, 0.02, 1.0, 0.001):
        moved = moved + step * np.array([0.6, -0.8, 0.1])
        distances, nearest = pairs(moved)
        expected, indices = tree.query(moved, distance_upper_bound=0.05)
        assert np.array_equal(distances, expected)
        paired = np.isfinite(expected)
        assert np.array_equal(nearest[paired], indices[paired])
    assert 0 < paired.mean() < 0.95
    assert asked[0] == len(targets) > 1.5 * asked[2]


def test_icp_on_some_of_the_points(truth, monkeypatch):
    from qvggt.eval import points

    sizes = []
    whole = points.register
    monkeypatch.setattr(points, "register", lambda source, *rest: sizes.append(len(source)) or whole(source, *rest))
    noisy = truth + np.random.default_rng(0).normal(0, 0.02, truth.shape) + [0.03, -0.02, 0]
    every, some = errors(noisy, truth), errors(noisy, truth, icp_points=1000)
    assert sizes == [truth.size // 3, 1000]
    assert some.predicted == every.predicted  # all of them are measured in any case
    assert some.acc != every.acc
    assert some.acc == pytest.approx(every.acc, rel=0.02)


def test_calls_that_do_not_fit(truth):
    with pytest.raises(ValueError, match="do not fit"):
        errors(truth[:2], truth)
    for bad in ({"crop": 0}, {"limit": 2}, {"icp": 0.0}, {"icp": math.nan}, {"icp_points": 2}, {"backend": "pcl"}):
        with pytest.raises(QvggtError, match="points: expected"):
            PointConfig(**bad)


def test_without_open3d(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "open3d", None)
    with pytest.raises(QvggtError, match=r"pip install '\.\[eval3d\]'"):
        clouds.check_backend("open3d")
    clouds.check_backend("scipy")
    assert clouds.default_backend() == "scipy"


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_direction_is_its_own(backend):
    """A floor is predicted, the wall behind it is not: nothing predicted is wrong, half of the truth is missing."""
    u, v = np.meshgrid(np.linspace(0, 1, 20), np.linspace(0, 1, 20))
    floor = np.stack([u, v, 0 * u], -1).reshape(-1, 3)
    wall = np.stack([0 * u + 5, u, v + 1], -1).reshape(-1, 3)
    found = clouds.distances(clouds.Cloud(floor, backend), clouds.Cloud(np.concatenate([floor, wall]), backend))
    assert (found.acc, found.acc_median) == (0, 0)
    assert found.comp == pytest.approx(np.mean([0, np.mean(cKDTree(floor).query(wall)[0])]))
    assert found.nc1 == pytest.approx(1)
    assert found.nc2 == pytest.approx(0.5, abs=1e-6)
    assert found.nc1_median == pytest.approx(1)
