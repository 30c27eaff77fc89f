from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qvggt.eval.reconstruction.cloud import build_cloud, select


def everything(truth: Any) -> np.ndarray:
    return np.ones(truth.frames.inside().shape, bool)


def test_no_filter_keeps_every_pixel_of_the_images(truth: Any) -> None:
    inside = truth.frames.inside()
    assert 0 < np.mean(~inside) < 0.5  # mixed sizes: there is padding
    found = select(truth.scene, inside, everything(truth), 0)
    assert np.array_equal(found.keep, inside)
    cloud = build_cloud(truth.scene, found, truth.frames.pixels)
    assert len(cloud) == inside.sum()
    one = len(cloud) // 2
    frame, (x, y) = cloud.frame[one], cloud.pixel[one]
    assert np.array_equal(cloud.points[one], truth.scene.points[frame, y, x])
    assert np.array_equal(cloud.colours[one], truth.frames.pixels[frame, :, y, x])


def test_the_least_confident_go(truth: Any) -> None:
    rng = np.random.default_rng(0)
    scene = replace(truth.scene, confidence=1 + rng.permutation(truth.scene.confidence.size).reshape(4, 70, 70) / 1e4)
    inside = truth.frames.inside()
    found = select(scene, inside, everything(truth), 30)
    assert found.doubtful == pytest.approx(0.3 * inside.sum(), rel=0.01)
    assert scene.confidence[found.keep].min() >= found.threshold > scene.confidence[inside & ~found.keep].max()
    assert found.keep.sum() + found.doubtful + found.masked + found.invalid == found.total == inside.sum()


def test_masked_and_invalid_pixels_go_before_the_percentile(truth: Any) -> None:
    points = truth.scene.points.copy()
    points[0, 30, :10] = np.nan
    points[1, 30, :10] = -points[1, 30, :10] - 50  # behind its camera
    behind = points[1, 30, :10] @ truth.scene.extrinsics[1, 2, :3] + truth.scene.extrinsics[1, 2, 3] < 0
    unmasked = everything(truth)
    unmasked[2, :20] = False
    inside = truth.frames.inside()
    found = select(replace(truth.scene, points=points), inside, unmasked, 0)
    assert found.invalid == inside[0, 30, :10].sum() + (behind & inside[1, 30, :10]).sum() > 10
    assert found.masked == inside[2, :20].sum()


def test_points_are_drawn_evenly_and_the_same_way(truth: Any) -> None:
    cloud = build_cloud(
        truth.scene, select(truth.scene, truth.frames.inside(), everything(truth), 0), truth.frames.pixels
    )
    few = cloud.at_most(500)
    assert len(few) == 500
    assert np.array_equal(few.points, cloud.at_most(500).points)
    assert not np.array_equal(few.points, cloud.at_most(500, seed=1).points)
    assert len(np.unique(few.frame)) == 4
    assert cloud.at_most(0) is cloud
