"""The harness on generated scenes: a perfect candidate scores perfectly, all see the same pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from room_data import room, write_nrgbd
from small_network import SIZE, small_model, small_scenes

from qvggt import QvggtError
from qvggt.data.co3d import read_sequences
from qvggt.data.co3d_writer import write_co3d
from qvggt.data.depth_png import read_depth
from qvggt.data.images import load_images
from qvggt.data.nrgbd import read_nrgbd
from qvggt.data.registry import Question
from qvggt.data.sequence import Frames
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.engines.runner import Runner
from qvggt.engines.torch_runner import TorchRunner
from qvggt.eval.ground_truth import plan_images
from qvggt.eval.harness import Protocol, check, evaluate, evaluate_rows, truth_notes
from qvggt.eval.points import PointConfig, true_points
from qvggt.eval.records import RecordWriter, config_sha256, read_records
from qvggt.geometry import encode_pose
from qvggt.predictions import Predictions

FRAMES = 4


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for category, seeds in (("one", range(3)), ("two", range(5, 7))):
        small_scenes(root, FRAMES, range(0), seeds, category)
    return read_sequences(Question(root, frames=FRAMES, min_frames=FRAMES))


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
    assert found.auc() == {30: 100.0, 15: 100.0, 5: 100.0, 3: 100.0}
    assert found.figure("rra5") == found.figure("rta5") == 100.0
    assert found.figure("abs_rel") == 0.0
    assert found.figure("delta1") == 1.0
    assert found.sqnr_db == {}
    assert found.categories == ("one", "two")
    assert [r.key for r in found.records] == [s.key for s in sequences]
    assert all(len(r.pose.rotation_deg) == FRAMES * (FRAMES - 1) // 2 for r in found.records)


def test_a_worse_candidate_scores_worse_and_its_noise_is_measured(sequences):
    best = Scripted(map(truth, sequences), "best")
    worse = Scripted([truth(s, noise=2.0, frame_scale=1.1) for s in sequences], "worse")
    first, second = evaluate([best, worse], sequences, size=SIZE, warmup=0, progress=False)
    assert second.auc()[5] < first.auc()[5]
    assert second.figure("rra5") == 100.0
    assert second.figure("rta5") < 100.0
    assert second.figure("abs_rel") == pytest.approx(0, abs=1e-7)  # the median takes the scale out
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
    assert first.auc() == second.auc()
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
    assert found.auc()[3] == 100.0
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


POINTS = Protocol(metrics=("pose", "depth", "points"), warmup=0, points=PointConfig(backend="scipy"))


def with_points(sequence, scale=1.0):
    made = truth(sequence)
    depth = np.stack([read_depth(path) for path in sequence.depth_paths])
    points = scale * true_points(depth, sequence.extrinsics, sequence.intrinsics)
    return Predictions(made.pose_enc, depth=made.depth, world_points=points.astype(np.float32))


def test_points_of_an_oracle(sequences):
    (found,) = evaluate(
        [Scripted([with_points(s, scale=7) for s in sequences])],
        sequences, size=SIZE, protocol=POINTS, progress=False,
    )  # fmt: skip
    for record in found.records:
        assert set(record.points) == {"head", "unproj"}
        assert record.points["head"].scale == pytest.approx(1 / 7, rel=1e-5)
        # depth is in the unit of the truth, camera translations are five times it: one must not forget either
        assert max(record.points["head"].acc, record.points["head"].comp) < 1e-4
        assert record.points["head"].nc > 0.999
        assert record.points["unproj"].acc > 0.02


def test_the_truth_is_prepared_once_for_all_candidates(sequences, monkeypatch):
    from qvggt.eval import clouds

    made = []
    whole = clouds.plane_normals
    monkeypatch.setattr(clouds, "plane_normals", lambda tree: made.append(tree.n) or whole(tree))
    some = sequences[:1]
    runners = [Scripted([with_points(s, scale) for s in some]) for scale in (1.0, 2.0, 3.0)]
    found = evaluate(runners, some, size=SIZE, protocol=POINTS, progress=False)
    assert len(made) == 1 + 3 * 2  # the truth; head and unproj of each candidate
    scales = [result.records[0].points["head"].scale for result in found]
    assert scales == pytest.approx([1, 1 / 2, 1 / 3], rel=1e-5)


def test_points_of_consistent_depth_and_cameras(sequences):
    def consistent(sequence):
        encoding = encode_pose(torch.from_numpy(sequence.extrinsics), torch.from_numpy(sequence.intrinsics), SIZE, SIZE)
        return Predictions(encoding.numpy().astype(np.float32), depth=truth(sequence).depth)

    (found,) = evaluate([Scripted(map(consistent, sequences))], sequences, size=SIZE, protocol=POINTS, progress=False)
    assert all(set(record.points) == {"unproj"} for record in found.records)
    assert max(record.points["unproj"].acc for record in found.records) < 1e-4


def test_a_room_through_the_harness(tmp_path):
    _, views = room(554.2562584220408, 3, 9)
    write_nrgbd(tmp_path, "kitchen", views)
    found = read_nrgbd(Question(tmp_path, stride=1))
    plan = plan_images([Scripted([])], 70, room=True)
    images, resizes = plan.load(found[0].image_paths, found[0].intrinsics)
    assert images.shape == (3, 3, 56, 70)

    class Oracle(Scripted):
        def __call__(self, images):
            from qvggt.eval.harness import Truth

            self.seen.append(images)
            true = Truth.of(found[0], resizes, 56, 70)
            encoding = encode_pose(torch.from_numpy(true.extrinsics), torch.from_numpy(true.intrinsics), 56, 70)
            return Predictions(
                encoding.numpy().astype(np.float32), true.depth, world_points=true.points.astype(np.float32)
            )

    (result,) = evaluate([Oracle([])], found, plan=plan, protocol=POINTS, progress=False)
    (record,) = result.records
    assert result.auc()[3] == 100
    assert record.depth.abs_rel == 0
    assert record.points["head"].acc < 1e-4
    assert record.points["head"].nc > 0.999
    # the decoder puts the principal point at W/2 on whole coordinates, half a pixel off the truth of a 70 pixel image
    assert record.points["unproj"].acc < 0.03


def test_every_pair_is_compared_and_every_pass_timed(sequences):
    scales = (1.0, 1.1, 1.21)
    answers = [[a for s in sequences for a in [truth(s, frame_scale=scale)] * 3] for scale in scales]
    rows = evaluate_rows(
        [Scripted(a, f"c{i}") for i, a in enumerate(answers)], list(sequences),
        plan_images([], SIZE), Protocol(warmup=0, repeats=3), progress=False,
    )  # fmt: skip
    first, second, third = rows[0]
    assert first.parity == {} == first.noise
    assert second.against(0)["depth"].sqnr_db == pytest.approx(20, abs=0.01)
    assert third.against(1)["depth"].sqnr_db == pytest.approx(20, abs=0.01)
    assert third.against(0)["depth"].sqnr_db == pytest.approx(20 - 20 * math.log10(2.1), abs=0.01)
    peak = third.against(0)["depth"].peak
    assert third.against(0)["depth"].max_error == pytest.approx(0.21 * peak, rel=1e-4)
    assert all(len(record.timings) == 3 and min(record.timings) <= record.seconds for record in rows[0])


def test_an_interrupted_run_goes_on(sequences, tmp_path):
    header = {
        "config_sha256": config_sha256({}), "config": {}, "candidates": [{"label": "c"}], "frame_list": {},
        "sequences": [{"key": s.key, "category": s.category} for s in sequences], "shard": [1, 1], "identity": {},
    }  # fmt: skip
    plan, protocol = plan_images([], SIZE), Protocol(warmup=0)
    answers = [truth(s, noise=0.3) for s in sequences]
    path = tmp_path / "r.jsonl"
    writer = RecordWriter(path, header)
    with pytest.raises(IndexError):  # the third answer is missing
        evaluate_rows([Scripted(answers[:2])], list(sequences), plan, protocol, save=writer.append, progress=False)
    rest = Scripted(answers[2:])
    writer = RecordWriter(path, header)
    rows = evaluate_rows([rest], list(sequences), plan, protocol, done=writer.done, save=writer.append, progress=False)
    assert rest.answers == []
    whole = evaluate_rows([Scripted(answers)], list(sequences), plan, protocol, progress=False)
    for (a,), (b,) in zip(rows, whole, strict=True):
        assert (a.key, a.depth) == (b.key, b.depth)
        assert np.array_equal(a.pose.worst_deg, b.pose.worst_deg)
    assert list(read_records(path).rows) == [s.key for s in sequences]


def test_protocols_that_make_no_sense(sequences, monkeypatch):
    with pytest.raises(QvggtError, match="expected some of pose, depth, points, got 'colour'"):
        Protocol(metrics=("pose", "colour"))
    with pytest.raises(QvggtError, match="warmup >= 0 and repeats >= 1"):
        Protocol(repeats=0)
    monkeypatch.setitem(__import__("sys").modules, "open3d", None)
    runner = Scripted([])
    with pytest.raises(QvggtError, match="Open3D"):
        check([runner], list(sequences), Protocol(metrics=("points",)))
    check([runner], list(sequences), POINTS)


def without_cameras(sequences):
    return [Frames(s.category, s.name, s.image_paths, s.frame_indices) for s in sequences]


def test_without_ground_truth_the_first_candidate_stands_for_it(sequences):
    """Figures of the second one are those it has where the first one's predictions are the annotated truth."""
    seconds = [truth(s, noise=2.0, frame_scale=1.1) for s in sequences]
    frames = without_cameras(sequences)
    runners = [Scripted(map(truth, sequences), "exact"), Scripted(seconds)]
    check(runners, frames, Protocol())
    first, second = evaluate(runners, frames, size=SIZE, warmup=0, progress=False)
    (known,) = evaluate([Scripted(seconds)], sequences, size=SIZE, warmup=0, progress=False)
    assert first.auc()[3] == 100.0
    assert first.figure("abs_rel") == 0.0
    assert second.figure("rta5") == known.figure("rta5") < 100.0
    assert second.auc() == known.auc()
    assert second.figure("abs_rel") == pytest.approx(known.figure("abs_rel"), abs=1e-7)
    (note,) = truth_notes(frames, "exact")
    assert note.startswith("no ground truth: cameras and depth of exact are taken for the truth")
    assert truth_notes(list(sequences), "exact") == []


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Images of 56x28 pixels, which a square network takes in the middle of a white square."""
    root = tmp_path_factory.mktemp("wide")
    write_co3d(root, SceneConfig(height=28, width=56, frames=FRAMES), range(0), range(2), progress=False)
    return read_sequences(Question(root, frames=FRAMES, min_frames=FRAMES))


MIDDLE = slice(14, 42)  # rows of a square of 56 that the images fill


def letterboxed(sequence, padding, noise=0.0):
    """The truth on the image, `padding` on the white around it; cameras of the whole square."""
    k = sequence.intrinsics.copy()
    k[:, 1, 2] += 14
    encoding = encode_pose(torch.from_numpy(sequence.extrinsics), torch.from_numpy(k), 56, 56)
    depth = np.full((FRAMES, 56, 56), padding, np.float32)
    depth[:, MIDDLE] = np.stack([read_depth(path) for path in sequence.depth_paths]) * np.float32(1 + noise)
    points = np.full((FRAMES, 56, 56, 3), padding, np.float32)
    points[:, MIDDLE] = true_points(depth, sequence.extrinsics, k)[:, MIDDLE]
    return Predictions(encoding.numpy().astype(np.float32), depth, world_points=points)


@pytest.mark.parametrize("cameras", [True, False])
def test_padding_is_no_part_of_any_figure(wide, cameras):
    """Whatever stands there: metrics of depth and points, noise, and the truth that a first candidate stands for."""
    one = list(wide)[:1]
    found = []
    for padding in (1e6, np.nan):
        runners = [Scripted([letterboxed(s, 0.5) for s in one], size=(56, 56))]
        runners.append(Scripted([letterboxed(s, padding, 0.01) for s in one]))
        plan = plan_images(runners, fit="pad")
        frames = one if cameras else without_cameras(one)
        ((_, second),) = evaluate_rows(runners, frames, plan, POINTS, progress=False)
        assert second.depth.pixels == FRAMES * 28 * 56
        assert second.depth.abs_rel == pytest.approx(0, abs=1e-6)
        assert second.noise["depth"].sqnr_db == pytest.approx(40, abs=0.01)
        assert second.points["head"].predicted == FRAMES * 28 * 56
        assert second.pose.worst_deg.max() < 0.1
        found.append(second.points)
    assert found[0] == found[1]


def test_each_sequence_goes_to_the_size_of_its_shape(sequences, wide):
    class Sizes(Scripted):
        sizes = ((56, 56), (28, 56))

    both = [*list(sequences)[:1], *list(wide)[:1]]
    runners = [cls([Predictions(truth(s).pose_enc) for s in both]) for cls in (Sizes, Scripted)]
    evaluate(runners, both, warmup=0, progress=False)
    for runner in runners:
        assert [images.shape[2:] for images in runner.seen] == [(56, 56), (28, 56)]


def test_a_first_candidate_that_cannot_stand_for_the_truth(sequences):
    broken = Scripted([Predictions(np.full((FRAMES, 9), np.nan, np.float32))])
    with pytest.raises(QvggtError, match=r"has no ground truth, and the first candidate.* put another one first"):
        evaluate([broken], without_cameras(sequences)[:1], size=SIZE, warmup=0, progress=False)
    sparse = np.full((FRAMES, SIZE, SIZE), np.nan, np.float32)
    sparse[0, 0, 0] = 2.0
    answers = [replace(truth(sequences[0]), depth=depth) for depth in (sparse, np.zeros_like(sparse))]
    runs = [Scripted([answer]) for answer in answers]
    found = [evaluate([run], without_cameras(sequences)[:1], size=SIZE, warmup=0, progress=False) for run in runs]
    assert [result.records[0].depth is not None for (result,) in found] == [True, False]
    assert found[0][0].records[0].depth.pixels == 1
