"""The interface every runner shares, on one that computes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from qvggt import QvggtError
from qvggt.engines.runner import ModelFile, Runner, strip_batch
from qvggt.predictions import TRAILING, Predictions


class Blank(Runner):
    """Outputs that hold their own flat index, so that a moved axis shows."""

    def __init__(self, outputs=tuple(TRAILING), size=None, frames=None):
        self.label, self.outputs, self.size, self.frames = "blank", outputs, size, frames
        self._closed = False

    def _run(self, images):
        sides = {"H": images.shape[2], "W": images.shape[3]}
        shapes = {n: (1, len(images), *(sides.get(s, s) for s in TRAILING[n])) for n in self.outputs}
        return {n: np.arange(np.prod(s), dtype=np.float32).reshape(s) for n, s in shapes.items()}

    @property
    def closed(self):
        return self._closed

    def close(self):
        self._closed = True

    def describe(self):
        return self._facts()


def images(frames=2, height=14, width=28):
    return np.zeros((frames, 3, height, width), np.float32)


def test_predictions_lose_the_batch_axis_only():
    predictions = Blank()(images())
    shapes = {name: value.shape for name, value in predictions.named().items()}
    assert shapes == {
        "pose_enc": (2, 9),
        "depth": (2, 14, 28),
        "depth_conf": (2, 14, 28),
        "world_points": (2, 14, 28, 3),
        "world_points_conf": (2, 14, 28),
    }
    for value in predictions.named().values():
        assert value.dtype == np.float32
        assert np.array_equal(value.ravel(), np.arange(value.size))


def test_outputs_can_be_chosen():
    assert list(Blank().run_named(images(), ("depth_conf", "depth"))) == ["depth_conf", "depth"]
    with pytest.raises(QvggtError, match="blank: computes no world_points, only depth"):
        Blank(("depth",)).run_named(images(), ["world_points"])


def test_tensors_on_the_gpu_are_for_engines():
    with pytest.raises(QvggtError, match="blank: takes and returns numpy arrays; build an engine"):
        Blank().run_device(images())


def test_absent_outputs_are_none():
    predictions = Blank(("pose_enc",))(images())
    assert predictions.depth is None
    assert list(predictions.named()) == ["pose_enc"]


def test_named_outputs_keep_the_batch_axis_and_need_no_pose():
    runner = Blank(("depth",))
    assert runner.run_named(images())["depth"].shape == (1, 2, 14, 28, 1)
    with pytest.raises(QvggtError, match="computes no pose_enc"):
        runner(images())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 3, 14, 14), np.float64), "float32 numpy array, got float64"),
        ([[0.0]], "float32 numpy array, got list"),
        (np.zeros((3, 14, 14), np.float32), r"\[S, 3, H, W\], got \[3, 14, 14\]"),
        (np.zeros((2, 14, 14, 3), np.float32), r"\[S, 3, H, W\]"),
        (np.zeros((0, 3, 14, 14), np.float32), r"\[S, 3, H, W\], got \[0, "),
    ],
)
def test_what_is_no_image_batch_is_refused(bad, message):
    with pytest.raises(QvggtError, match=message):
        Blank()(bad)


def test_fixed_size_and_frames_are_enforced():
    with pytest.raises(QvggtError, match=r"expected images of 28x14 \(H x W\), got 14x28"):
        Blank(size=(28, 14))(images())
    with pytest.raises(QvggtError, match="expected 3 frames, got 2"):
        Blank(frames=3)(images())


def test_context_manager_closes_and_a_closed_runner_says_so():
    with Blank() as runner:
        assert not runner.closed
    assert runner.closed
    with pytest.raises(RuntimeError, match="closed"):
        runner(images())


def test_an_output_of_the_wrong_shape_is_named():
    outputs = {"pose_enc": np.zeros((1, 3, 9), np.float32)}
    with pytest.raises(QvggtError, match=r"output pose_enc: expected shape \[1, 2, 9\], got \[1, 3, 9\]"):
        strip_batch(outputs, (2, 3, 14, 14), "x")


def test_predictions_are_frozen():
    predictions = Predictions(np.zeros((1, 9), np.float32))
    with pytest.raises(AttributeError):
        predictions.depth = None


def test_model_file_hashes_and_measures(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    file = ModelFile.of(path)
    assert file.bytes == 3
    assert file.sha256.startswith("ba7816bf")


def test_repr_is_one_line() -> None:
    runner = Blank(("pose_enc", "depth"))
    text = "Blank('blank', device cpu, outputs pose_enc, depth"
    assert repr(runner) == f"{text})"
    runner.close()
    assert repr(runner) == f"{text}, closed)"
