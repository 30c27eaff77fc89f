"""Neural RGBD reader: ROOT/<scene>/{images/img<i>.png, depth/depth<i>.png, poses.txt} (spec evaluation.md 4.3).

640x480, focal length 554.2562584220408 (60 degrees across), principal point (320, 240), depth in millimetres. poses.txt
holds four lines per frame: world-from-camera with OpenGL axes (y up, z back), negated here into OpenCV's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt.data import rooms
from qvggt.data.frame_list import FrameList
from qvggt.data.registry import Question
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.data.sequence import SequenceSet
from qvggt.errors import QvggtError

POSES = "poses.txt"
NAME = "all"  # a scene is one sequence
FOCAL = 554.2562584220408  # pixels
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def read_nrgbd(question: Question, frame_list: FrameList | None = None) -> SequenceSet[EvalSequence]:
    """One sequence per scene. QvggtError for a layout, pose or list that does not fit, or nothing left."""
    question, stride = rooms.settled(question, "nrgbd")
    recordings = [_recording(folder, stride) for folder in rooms.scene_folders(question, POSES)]
    return rooms.answer(question, recordings, frame_list, FOCAL)


def _recording(folder: Path, stride: int) -> rooms.Recording:
    path = folder / POSES
    rows = rooms.parse_numbers(path)
    numbers = rooms.frame_numbers(folder / "images", "img", ".png")
    if len(rows) % 4 or (numbers and numbers[-1] >= len(rows) // 4):
        raise QvggtError(
            f"{path}: expected four lines for each of {numbers[-1] + 1 if numbers else 0} frames, got {len(rows)}; "
            "restore the file"
        )
    matrices = rows.reshape(-1, 4, 4)

    def pose(number: int) -> NDArray[np.float64] | None:
        return rooms.checked_pose(matrices[number] @ OPENGL_TO_OPENCV)

    return rooms.Recording(
        scene=folder.name,
        name=NAME,
        numbers=numbers,
        stride=max(1, min(stride, len(numbers) // 2)),  # two frames at least
        image=lambda number: folder / "images" / f"img{number}.png",
        pose=pose,
        depths=lambda numbers: tuple(folder / "depth" / f"depth{number}.png" for number in numbers),
    )
