from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from true_runner import TrueRunner, shoot

from qvggt.errors import QvggtError
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.pose import pairwise_errors
from qvggt.eval.reconstruction.frames import load_frames
from qvggt.eval.reconstruction.passes import Pass, plan_passes
from qvggt.eval.reconstruction.scene import reconstruct
from qvggt.predictions import OUTPUTS


def test_one_pass_gives_the_truth(truth: Any) -> None:
    scene = truth.scene
    assert np.abs(scene.points - truth.runner.points()).max() < 1e-4
    assert np.allclose(scene.depth, truth.runner.depth, rtol=1e-6)
    assert np.allclose(scene.extrinsics[0], np.eye(4)[:3], atol=1e-6)
    assert pairwise_errors(scene.extrinsics, truth.runner.extrinsics).worst_deg.max() < 0.01


def test_depth_and_head_agree(truth: Any) -> None:
    head, _ = reconstruct(truth.runner, truth.frames, [Pass(0, 4, 0)], "head")
    assert np.abs(head.points - truth.scene.points).max() < 1e-3


def test_the_principal_point_of_originals(truth: Any) -> None:
    """Half a network pixel beyond the centre of the visible part, and focal lengths of the renderer."""
    for index, (k, resize) in enumerate(
        zip(truth.scene.source_intrinsics(truth.frames.resizes), truth.frames.resizes, strict=True)
    ):
        source = truth.taken.intrinsics(index)
        assert k[0, 0] == pytest.approx(source[0, 0], rel=1e-5)
        assert k[1, 1] == pytest.approx(source[1, 1], rel=1e-5)
        width = truth.taken.sizes[index][1]
        assert k[0, 2] == pytest.approx(width / 2 + 0.5 / resize.scale_x, abs=1.0)


SMALL = [(56, 70)] * 14


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Any:
    taken = shoot(tmp_path_factory.mktemp("long"), SMALL, seed=5)
    return taken, load_frames(taken.paths, ImagePlan(70))


@pytest.mark.parametrize("source", ["depth", "head"])
def test_passes_in_worlds_of_their_own_are_joined(long: Any, source: Any) -> None:
    taken, frames = long
    runner = TrueRunner(taken, frames, own_worlds=True)
    passes = plan_passes(len(frames), 5, 2)
    scene, joins = reconstruct(runner, frames, passes, source)
    assert len(joins) == len(passes) - 1 >= 3
    assert max(j.residual_median for j in joins) < 1e-5
    assert max(j.camera_deg for j in joins) < 0.01
    assert max(j.camera_shift for j in joins) < 1e-4
    # the first pass chose the unit: compare up to that
    unit = np.median(scene.depth / runner.depth)
    assert np.abs(scene.depth / runner.depth / unit - 1).max() < 1e-4
    assert np.abs(scene.points / unit - runner.points()).max() < 1e-2
    assert pairwise_errors(scene.extrinsics, runner.extrinsics).worst_deg.max() < 0.05


def test_errors_of_the_network_show_in_the_joins_and_stay_small(long: Any) -> None:
    """2 % smooth depth error: joins report about that, cameras stay within a degree over four joins."""
    taken, frames = long
    runner = TrueRunner(taken, frames, own_worlds=True, noise=0.02)
    scene, joins = reconstruct(runner, frames, plan_passes(len(frames), 5, 2))
    assert 0.003 < max(j.residual_median for j in joins) < 0.06
    assert pairwise_errors(scene.extrinsics, runner.extrinsics).rotation_deg.max() < 2
    assert max(j.camera_deg for j in joins) < 2


def test_an_image_seen_twice_keeps_its_first_prediction(long: Any) -> None:
    taken, frames = long
    runner = TrueRunner(taken, frames, own_worlds=True, noise=0.05)
    passes = [Pass(0, 8, 0), Pass(5, 14, 3)]
    scene, _ = reconstruct(runner, frames, passes)
    again = TrueRunner(taken, frames, own_worlds=True, noise=0.05)
    first, _ = reconstruct(again, frames, [Pass(0, 8, 0)])
    assert np.array_equal(scene.depth[:8], first.depth[:8])
    assert runner.calls == [list(range(8)), list(range(5, 14))]


def test_padding_does_not_count_in_a_join(tmp_path: Path) -> None:
    taken = shoot(tmp_path, [(90, 70), (56, 70), (90, 70)], seed=6)
    frames = load_frames(taken.paths, ImagePlan(70))
    assert not frames.inside()[1].all()  # the shared image has padding
    runner = TrueRunner(taken, frames, own_worlds=True)
    runner.depth[~frames.inside()] *= np.random.default_rng(0).uniform(0.2, 5, int((~frames.inside()).sum()))
    plain = runner._run

    def different(images: Any) -> Any:
        runner.depth[~frames.inside()] *= 3
        return plain(images)

    runner._run = different  # type: ignore[method-assign]
    _, joins = reconstruct(runner, frames, [Pass(0, 2, 0), Pass(1, 3, 1)])
    assert joins[0].residual_rms < 1e-5
    runner.close()


def test_missing_outputs_are_named(truth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth.runner, "outputs", tuple(n for n in OUTPUTS if not n.startswith("depth")))
    with pytest.raises(QvggtError, match="computes no depth, only pose_enc"):
        reconstruct(truth.runner, truth.frames, [Pass(0, 4, 0)])


def test_a_camera_that_is_not_finite(truth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth.runner, "intrinsics", truth.runner.intrinsics * np.nan)
    with pytest.raises(QvggtError, match="camera of image 1 of 4"):
        reconstruct(truth.runner, truth.frames, [Pass(0, 4, 0)])
