from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qvggt.data.cameras import are_cameras
from qvggt.data.sequence import Sequence, SequenceSet
from qvggt.errors import QvggtError

EYE = np.eye(3)


@pytest.mark.parametrize(
    ("rotation", "translation", "focal", "right"),
    [
        (EYE, [0, 0, 1], [2.0, 3.0], True),
        (EYE + 1e-4, [0, 0, 1], [2.0], True),
        (EYE * 0, [0, 0, 1], [2.0], False),
        (-EYE, [0, 0, 1], [2.0], False),
        (EYE * 2, [0, 0, 1], [2.0], False),
        (EYE * np.nan, [0, 0, 1], [2.0], False),
        (EYE, [0, np.nan, 1], [2.0], False),
        (EYE, [0, np.inf, 1], [2.0], False),
        (EYE, [0, 0, 1], [2.0, 0.0], False),
        (EYE, [0, 0, 1], [-2.0, 2.0], False),
        (EYE, [0, 0, 1], [np.nan], False),
    ],
)
def test_what_is_a_camera(rotation: np.ndarray, translation: list[float], focal: list[float], right: bool) -> None:
    assert bool(are_cameras(rotation, translation, focal)) is right
    both = are_cameras([rotation, EYE], [translation, [0, 0, 0]], [focal, np.ones(len(focal))])
    assert both.tolist() == [right, True]


def test_sets_lose_sequences_without_cameras() -> None:
    """Of any data set, also one that a program registers."""
    poses = np.repeat(np.eye(4)[None, :3], 2, 0)
    good = Sequence("a", "x", (Path("p"), Path("q")), (0, 1), poses, np.repeat(EYE[None], 2, 0), (None, None))
    bad = replace(good, name="y", extrinsics=poses * [[[1.0], [1.0], [0.0]]])
    found = SequenceSet((bad, good), (), {}).with_cameras()
    assert [s.key for s in found] == ["a/x"]
    assert found.skip_counts() == {"no camera": 1}
    with pytest.raises(QvggtError, match="a/y and 0 other sequences"):
        SequenceSet((bad,), (), {}).with_cameras()
