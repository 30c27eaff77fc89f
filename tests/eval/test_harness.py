"""The harness on generated scenes: a perfect candidate scores perfectly, all see the same pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_network import SIZE, small_model

from qvggt import QvggtError
from qvggt.engines import Predictions, Runner
from qvggt.engines.torch_runner import TorchRunner
from qvggt.eval.co3d import Co3DConfig, read_depth, read_sequences
from qvggt.eval.co3d_writer import write_co3d
from qvggt.eval.harness import evaluate
from qvggt.eval.synthetic.scene import SceneConfig
from qvggt.geometry import encode_pose
from qvggt.images import load_images

FRAMES = 4


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    config = SceneConfig(height=SIZE, width=SIZE, frames=FRAMES)
    for category, seeds in (("one", range(3)), ("two", range(5, 7))):
        write_co3d(root, config, range(0), seeds, category=category, progress=False)
    return read_sequences(Co3DConfig(str(root), str(root / "annotations"), frames=FRAMES, min_frames=FRAMES))


class Scripted(Runner):
    """Answers call after call from a list, and keeps the images it saw."""

    def __init__(self, answers, label="scripted", size=None):
        self.answers, self.label, self.size, self.seen = list(answers), label, size, []

    def __call__(self, images):
        self.seen.append(images.copy())
        return self.answers.pop(0)

    def _run(self, images):
        raise NotImplementedError

    @property
    def closed(self):
        return False

    def close(self):
        pass

    def describe(self):
        return {"kind": "scripted", "bytes": 0}


def truth(sequence, noise=0.0, frame_scale=1.0):
    """Predictions made of the ground truth, cameras in another world frame and at another scale."""
    moved = np.eye(4)
    moved[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    moved[:3, 3] = 1, 2, 3
    extrinsics = sequence.extrinsics @ moved
    extrinsics[:, :3, 3] *= 5
    extrinsics[:, :3, 3] += noise * np.random.default_rng(0).normal(size=(len(extrinsics), 3))
    encoding = encode_pose(torch.from_numpy(extrinsics), torch.from_numpy(sequence.intrinsics), SIZE, SIZE)
    depth = np.stack([read_depth(path) for path in sequence.depth_paths])
    return Predictions(encoding.numpy().astype(np.float32), depth=depth * np.float32(frame_scale))


def test_an_oracle_scores_perfectly(sequences):
    (found,) = evaluate([Scripted(map(truth, sequences))], sequences, size=SIZE, warmup=0, progress=False)
    assert found.auc == {30: 1.0, 15: 1.0, 5: 1.0, 3: 1.0}
    assert found.rra == found.rta == 1.0
    assert found.abs_rel == 0.0
    assert found.delta1 == 1.0
    assert found.sqnr_db == {}
    assert found.categories == ("one", "two")
    assert [r.key for r in found.records] == [s.key for s in sequences]
    assert all(len(r.pose.rotation_deg) == FRAMES * (FRAMES - 1) // 2 for r in found.records)


def test_a_worse_candidate_scores_worse_and_its_noise_is_measured(sequences):
    best = Scripted(map(truth, sequences), "best")
    worse = Scripted([truth(s, noise=2.0, frame_scale=1.1) for s in sequences], "worse")
    first, second = evaluate([best, worse], sequences, size=SIZE, warmup=0, progress=False)
    assert second.auc[5] < first.auc[5]
    assert second.rra == 1.0
    assert second.rta < 1.0
    assert second.abs_rel == pytest.approx(0, abs=1e-7)  # the median takes the scale out
    assert second.sqnr_db["depth"] == pytest.approx(20, abs=0.01)
    assert 0 < second.sqnr_db["pose_enc"] < 40


def test_noise_is_against_the_first_candidate(sequences):
    scales = (1.0, 1.1, 1.0)
    runners = [Scripted([truth(s, frame_scale=scale) for s in sequences]) for scale in scales]
    _, _, third = evaluate(runners, sequences, size=SIZE, warmup=0, progress=False)
    assert third.sqnr_db["depth"] == math.inf


def test_equal_candidates_are_equal(sequences):
    model = small_model()
    runners = [TorchRunner(model, "a"), TorchRunner(model, "b")]
    first, second = evaluate(runners, sequences, progress=False)
    assert first.auc == second.auc
    assert set(second.sqnr_db) == {"pose_enc", "depth", "depth_conf", "world_points", "world_points_conf"}
    assert set(second.sqnr_db.values()) == {math.inf}
    assert second.facts["kind"] == "pytorch"
    assert second.seconds > 0


def test_all_see_the_same_pixels_whatever_one_does_to_them(sequences):
    class Vandal(Scripted):
        def __call__(self, images):
            answer = super().__call__(images)
            images[:] = 0
            return answer

    runners = [Vandal(map(truth, sequences)), Scripted(map(truth, sequences))]
    evaluate(runners, sequences, size=SIZE, warmup=0, progress=False)
    for a, b, sequence in zip(runners[0].seen, runners[1].seen, sequences, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, load_images(sequence.image_paths, size=SIZE).numpy())


def test_a_fixed_size_holds_for_every_candidate(sequences):
    runners = [Scripted([truth(s) for s in sequences]), Scripted([truth(s) for s in sequences], size=(28, 42))]
    for runner in runners:
        runner.answers = [Predictions(answer.pose_enc) for answer in runner.answers]
    evaluate(runners, sequences, warmup=0, progress=False)
    assert {images.shape for runner in runners for images in runner.seen} == {(FRAMES, 3, 28, 42)}


def test_warm_up_calls_are_not_recorded(sequences):
    answers = [truth(sequences[0])] * 2 + [truth(s) for s in sequences]
    runner = Scripted(answers)
    (found,) = evaluate([runner], sequences, size=SIZE, warmup=2, progress=False)
    assert len(found.records) == len(sequences)
    assert found.auc[3] == 1.0
    assert runner.answers == []


def test_what_cannot_be_evaluated_is_said_before_any_work(sequences, tmp_path):
    runner = Scripted([])
    with pytest.raises(QvggtError, match="at least one model or engine"):
        evaluate([], sequences)
    with pytest.raises(QvggtError, match="at least one sequence"):
        evaluate([runner], [])
    with pytest.raises(QvggtError, match="need 2 frames or more, got 1"):
        evaluate([runner], [sequences[0].first(1)])
    poseless, short = Scripted([]), Scripted([])
    poseless.outputs, short.frames = ("depth",), 2
    with pytest.raises(QvggtError, match="computes no pose_enc, only depth"):
        evaluate([runner, poseless], sequences)
    with pytest.raises(QvggtError, match=f"takes only 2 frames, one/scene_000000000 has {FRAMES}"):
        evaluate([short], sequences)
    with pytest.raises(QvggtError, match="two only 14x14"):
        evaluate([Scripted([], "two", (14, 14)), Scripted([], "one", (28, 28))], sequences)
    assert runner.seen == []


def test_a_missing_image_is_found_first_and_a_broken_one_named(sequences):
    last = sequences[len(sequences) - 1].image_paths[-1]
    content = last.read_bytes()
    try:
        last.write_bytes(content[:100])
        with pytest.raises(QvggtError, match="expected a readable image") as caught:
            evaluate([Scripted(map(truth, sequences))], sequences, size=SIZE, warmup=0, progress=False)
        assert str(last) in str(caught.value)
        last.unlink()
        runner = Scripted([])
        with pytest.raises(QvggtError, match="no such image file"):
            evaluate([runner], sequences, size=SIZE, progress=False)
        assert runner.seen == []
    finally:
        last.write_bytes(content)
