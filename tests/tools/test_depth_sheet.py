"""Rows of the picture: the right frames, ground truth in the unit of the reference, candidates on the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from depth_sheet import depth_rows
from numpy.typing import NDArray

from qvggt.data.co3d import read_sequences
from qvggt.data.co3d_writer import write_co3d
from qvggt.data.depth_png import read_depth
from qvggt.data.registry import Question
from qvggt.data.sequence import SequenceSet
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.engines.runner import Array, Runner
from qvggt.errors import QvggtError
from qvggt.predictions import Predictions

SIZE, FRAMES = 28, 3


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> SequenceSet:
    root = tmp_path_factory.mktemp("scenes")
    write_co3d(root, SceneConfig(height=SIZE, width=SIZE, frames=5), range(0), range(2), progress=False)
    return read_sequences(Question(root, frames=FRAMES, min_frames=5))


class Fixed(Runner):
    """Answers with given depth maps, in the order asked, and keeps the images it saw."""

    native_size = SIZE

    def __init__(self, depths: list[NDArray[np.float32]], label: str, outputs: tuple[str, ...] = ("depth",)) -> None:
        self.depths, self.label, self.outputs = list(depths), label, outputs
        self.seen: list[Array] = []

    def __call__(self, images: Array) -> Predictions:
        self.seen.append(images.copy())
        return Predictions(np.zeros((len(images), 9), np.float32), depth=self.depths.pop(0))

    def _run(self, images: Array) -> dict[str, Array]:
        raise NotImplementedError

    def close(self) -> None:
        pass

    @property
    def closed(self) -> bool:
        return False

    def describe(self) -> dict[str, object]:
        return {}


def true_depths(sequences: SequenceSet) -> list[NDArray[np.float32]]:
    return [np.stack([read_depth(p) for p in s.depth_paths if p is not None]) for s in sequences]


def test_a_perfect_reference_meets_the_scaled_ground_truth(sequences: SequenceSet) -> None:
    depths = true_depths(sequences)
    reference, other = Fixed([d / 4 for d in depths], "a"), Fixed([d / 5 for d in depths], "b")
    rows = depth_rows(reference, other, sequences.sequences, shown=2)
    assert len(rows) == 4
    for row in rows:
        truth, first, second = row.depths
        np.testing.assert_allclose(truth, first, rtol=1e-6)
        np.testing.assert_allclose(second, first * 0.8, rtol=1e-6)
    for mine, theirs in zip(reference.seen, other.seen, strict=True):
        assert mine.shape == (FRAMES, 3, SIZE, SIZE)  # all frames of the sequence, though two are shown
        np.testing.assert_array_equal(mine, theirs)


def test_rows_show_the_drawn_frames(sequences: SequenceSet) -> None:
    depths = true_depths(sequences)
    runner = Fixed(depths, "a")
    rows = depth_rows(runner, Fixed(depths, "b"), sequences.sequences, shown=FRAMES + 5)
    expected = [f"{s.name}\nframe {index}" for s in sequences for index in s.frame_indices]
    assert [row.label for row in rows] == expected
    np.testing.assert_array_equal(rows[1].image, runner.seen[0][1].transpose(1, 2, 0))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_useless_reference_leaves_the_truth_unscaled_and_empty(sequences: SequenceSet, value: float) -> None:
    nothing = [np.full_like(d, value) for d in true_depths(sequences)]
    rows = depth_rows(Fixed(nothing, "a"), Fixed(nothing, "b"), sequences.sequences, shown=1)
    assert np.isnan(rows[0].depths[0]).all()


def test_missing_ground_truth_is_nan(tmp_path: Path) -> None:
    write_co3d(tmp_path, SceneConfig(height=SIZE, width=SIZE, frames=2), range(0), range(1), progress=False)
    for path in tmp_path.glob("*/*/depths/*.png"):
        path.unlink()
    found = read_sequences(Question(tmp_path, frames=2, min_frames=2))
    ones = [np.ones((2, SIZE, SIZE), np.float32)]
    rows = depth_rows(Fixed(ones, "a"), Fixed(ones, "b"), found.sequences, shown=2)
    assert all(np.isnan(row.depths[0]).all() for row in rows)
    assert all((row.depths[1] == 1).all() for row in rows)


def test_a_candidate_without_depth_is_named(sequences: SequenceSet) -> None:
    with pytest.raises(QvggtError, match=r"poses only: computes no depth, only pose_enc"):
        depth_rows(Fixed([], "a"), Fixed([], "poses only", ("pose_enc",)), sequences.sequences, shown=1)
