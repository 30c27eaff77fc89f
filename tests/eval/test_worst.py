"""Which sequences are stored, and that what is stored says the same as what was predicted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_network import SIZE, small_model, small_scenes

from qvggt import QvggtError
from qvggt.data.co3d import read_sequences
from qvggt.data.registry import Question
from qvggt.engines.torch_runner import TorchRunner
from qvggt.eval.ground_truth import ImagePlan, plan_images
from qvggt.eval.pose import PoseErrors
from qvggt.eval.result import SequenceRecord
from qvggt.eval.worst import POINTS, SIDE, rank_worst, store_worst
from qvggt.geometry import project, unproject


def row(key, *errors):
    return tuple(SequenceRecord(key, "a", PoseErrors(np.array([e, 0.5]), np.zeros(2)), None, {}, 1.0) for e in errors)


def test_the_largest_fall_comes_first():
    rows = [row("a/1", 0.5, 0.5, 10.0), row("a/2", 0.5, 20.0, 0.5), row("a/3", 20.0, 0.5, 0.5), row("a/4", 9, 9, 9)]
    ranked = rank_worst(rows, 3)
    assert [entry["sequence"] for entry in ranked] == ["a/2", "a/1", "a/4"]
    assert ranked[0]["metric"] == "auc30"
    assert ranked[0]["values"][0] == 100
    assert len(ranked[0]["values"]) == 3
    alone = rank_worst([row("a/1", 5.0), row("a/2", 25.0), row("a/3", math.inf)], 9)
    assert [entry["sequence"] for entry in alone] == ["a/3", "a/2", "a/1"]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    small_scenes(root, 3, range(0), range(2))
    return read_sequences(Question(root, frames=3, min_frames=3))


def test_stored_arrays(sequences, tmp_path):
    runners = [TorchRunner(small_model(i), f"c{i}") for i in range(2)]
    plan = plan_images(runners)
    ranked = [{"sequence": sequences[1].key, "metric": "auc30", "values": [1.0, 0.5]}]
    (entry,) = store_worst(tmp_path / "new", runners, list(sequences), plan, ranked, progress=False)
    assert entry["file"] == str(tmp_path / "new" / f"synthetic__{sequences[1].name}.npz")
    stored = dict(np.load(entry["file"], allow_pickle=False))
    assert stored["images"].shape == (3, SIZE, SIZE, 3)
    assert stored["images"].dtype == np.uint8
    assert tuple(stored["frames"]) == sequences[1].frame_indices
    assert np.allclose(stored["gt_extrinsics"][0], np.eye(4)[:3])
    # depth, cameras and points of the truth belong together
    world = unproject(*(torch.from_numpy(stored[f"gt_{n}"]).double() for n in ("depth", "extrinsics", "intrinsics")))
    assert np.allclose(world.reshape(-1, 3), stored["gt_points"], atol=1e-5)
    assert np.array_equal(stored["gt_colors"], stored["images"].reshape(-1, 3))
    images = plan.load(sequences[1].image_paths)[0]
    for index, runner in enumerate(runners):
        predicted = runner(images)
        assert np.array_equal(stored[f"c{index}_depth"], predicted.depth)
        assert np.array_equal(stored[f"c{index}_points"], predicted.world_points.reshape(-1, 3))
        assert np.array_equal(stored[f"c{index}_confidence"], predicted.world_points_conf.reshape(-1))
        assert stored[f"c{index}_scale"] == pytest.approx(
            np.median(stored["gt_depth"]) / np.median(predicted.depth), rel=1e-5
        )


def test_padding_is_not_stored(sequences, tmp_path):
    """On a square twice as wide as the images are, half of the pixels."""
    runner = TorchRunner(small_model(), "c")
    plan = ImagePlan(112, (56, 112), fit="pad")
    ranked = [{"sequence": sequences[0].key, "metric": "auc30", "values": [1.0]}]
    (entry,) = store_worst(tmp_path, [runner], list(sequences), plan, ranked, progress=False)
    stored = dict(np.load(entry["file"], allow_pickle=False))
    known = np.isfinite(stored["c0_depth"])
    assert known[:, :, 28:84].all()
    assert known.sum() == known.size / 2 == len(stored["c0_points"])
    assert np.isfinite(stored["c0_points"]).all()


def test_large_maps_are_thinned_and_stay_consistent(sequences, tmp_path):
    runner = TorchRunner(small_model(heads=("camera", "depth")), "c")
    plan = plan_images([runner], 280)
    ranked = [{"sequence": sequences[0].key, "metric": "auc30", "values": [1.0]}]
    (entry,) = store_worst(tmp_path, [runner], list(sequences), plan, ranked, progress=False)
    stored = dict(np.load(entry["file"], allow_pickle=False))
    assert max(stored["c0_depth"].shape[1:]) <= SIDE
    assert stored["images"].shape[1:3] == stored["c0_depth"].shape[1:] == stored["gt_depth"].shape[1:]
    assert len(stored["c0_points"]) <= POINTS
    # unprojected depth: a stored point, seen by the stored camera, lies on a pixel of the map and has its depth
    extrinsics, intrinsics = (torch.from_numpy(stored[f"c0_{n}"]).double() for n in ("extrinsics", "intrinsics"))
    first = torch.from_numpy(stored["c0_points"][:300]).double()
    pixels, depth = project(first, extrinsics[0], intrinsics[0])
    on_map = (pixels - pixels.round()).abs().amax(1) < 1e-3
    assert on_map.any()
    column, line = pixels[on_map].round().long().unbind(1)
    assert np.allclose(depth[on_map], stored["c0_depth"][0][line, column], rtol=1e-4)


def test_a_place_that_refuses(sequences, tmp_path):
    (tmp_path / "file").write_text("")
    runner = TorchRunner(small_model(), "c")
    ranked = [{"sequence": sequences[0].key, "metric": "auc30", "values": [1.0]}]
    with pytest.raises(QvggtError, match="cannot be written"):
        store_worst(tmp_path / "file", [runner], list(sequences), plan_images([runner]), ranked, progress=False)
