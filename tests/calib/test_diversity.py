"""Clusters and their members: sizes, determinism, degenerate points, what each way of picking does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt.calib.diversity import (
    PICKS,
    Array,
    Pick,
    cluster,
    coverage_distance,
    fill,
    mean_pairwise_distance,
    pick_members,
)


def islands(sizes: tuple[int, ...] = (10, 10, 10), seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(size, 3)) * 0.1 + 5 * n for n, size in enumerate(sizes)])


def test_finds_the_clusters_whatever_the_seed() -> None:
    for seed in range(5):
        groups = cluster(islands(), 3, seed)
        assert groups.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    centre = islands()[:10].mean(axis=0)
    assert groups.distances[:10] == pytest.approx(np.linalg.norm(islands()[:10] - centre, axis=1))


@pytest.mark.parametrize("pick", PICKS)
def test_takes_so_many_from_every_cluster(pick: Pick) -> None:
    groups = cluster(islands((10, 3, 20)), 3, 0)
    chosen = pick_members(islands((10, 3, 20)), groups, 4, 0, pick)
    assert np.bincount(groups.labels[chosen]).tolist() == [4, 3, 4]
    assert chosen == sorted(set(chosen))
    assert pick_members(islands((10, 3, 20)), groups, 4, 0, pick) == chosen


def test_spread_starts_at_the_centre_and_goes_far() -> None:
    line = np.array([[0.0], [1.0], [2.0], [3.0], [4.0]])
    groups = cluster(line, 1, 0)
    assert [pick_members(line, groups, count, 0) for count in (1, 2, 3)] == [[2], [0, 2], [0, 2, 4]]
    assert pick_members(line, groups, 3, 0, "nearest") == [1, 2, 3]


def test_random_depends_on_the_seed() -> None:
    points = islands((40,))
    groups = cluster(points, 1, 0)
    assert pick_members(points, groups, 5, 0, "random") != pick_members(points, groups, 5, 1, "random")


def test_fill_takes_the_nearest_of_the_rest() -> None:
    line = np.array([[0.0], [1.0], [2.0], [3.0], [4.5]])
    groups = cluster(line, 1, 0)
    assert fill(groups, [2], 3) == [3, 1]  # the centre is at 2.1
    assert fill(groups, [0, 1, 2], 3) == []
    assert len(fill(groups, [], 9)) == 5


@pytest.mark.filterwarnings("error")
def test_equal_points_make_fewer_clusters() -> None:
    points = np.ones((6, 3))
    groups = cluster(points, 4, 0)
    assert groups.labels.tolist() == [0] * 6
    assert len(set(pick_members(points, groups, 4, 0))) == 4


@settings(deadline=None, max_examples=20)
@given(count=st.integers(2, 25), clusters=st.integers(1, 6), per_cluster=st.integers(1, 5), pick=st.sampled_from(PICKS))
def test_picked_and_filled_make_the_wanted_number(count: int, clusters: int, per_cluster: int, pick: Pick) -> None:
    points = np.random.default_rng(count).normal(size=(count, 2))
    groups = cluster(points, clusters, 0)
    picked = pick_members(points, groups, per_cluster, 0, pick)
    added = fill(groups, picked, clusters * per_cluster)
    assert len({*picked, *added}) == len(picked) + len(added) == min(count, clusters * per_cluster)


def test_measures() -> None:
    square = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    assert mean_pairwise_distance(square) == pytest.approx((4 + 2 * np.sqrt(2)) / 6)
    assert coverage_distance(square, square[:2]) == pytest.approx(0.5)
    assert coverage_distance(square, square) == 0
