"""7-Scenes reader: ROOT/<scene>/TestSplit.txt and seq-XX/frame-%06d.{color,depth.proj,depth}.png, .pose.txt.

Kinect, 640x480, focal length 525, principal point (320, 240), depth in millimetres, poses world-from-camera (spec
evaluation.md 4.3). Raw depth is of the depth camera, not registered to colour: with it numbers are not comparable with
those of harnesses that use depth.proj.png, so which one was read is part of the notes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt.data import rooms
from qvggt.data.frame_list import FrameList
from qvggt.data.registry import Question
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.data.sequence import SequenceSet, Skipped
from qvggt.errors import QvggtError

SPLIT = "TestSplit.txt"
FOCAL = 525.0  # pixels
SUFFIX = {"proj": "depth.proj.png", "raw": "depth.png"}


def read_seven_scenes(question: Question, frame_list: FrameList | None = None) -> SequenceSet[EvalSequence]:
    """The test sequences of every scene. QvggtError for a layout, pose or list that does not fit, or nothing left."""
    question, stride = rooms.settled(question, "7scenes")
    recordings, skipped = [], []
    for folder in rooms.scene_folders(question, SPLIT):
        for name in split_sequences(folder / SPLIT)[: question.max_sequences]:
            if (folder / name).is_dir():
                recordings.append(_recording(folder / name, stride, question.depth))
            else:
                skipped.append(Skipped(folder.name, name, "folder missing"))
    result = rooms.answer(question, recordings, frame_list, FOCAL, skipped)
    proj = sum(str(s.depth_paths[0]).endswith(SUFFIX["proj"]) for s in result)
    notes = {
        f"7-Scenes depth: depth.proj.png (registered to colour) for {proj} sequences": proj,
        f"7-Scenes depth: raw depth.png (not registered to colour) for {len(result) - proj} sequences: not comparable "
        "with numbers from depth.proj.png": len(result) - proj,
    }
    return replace(result, notes=(*result.notes, *(note for note, count in notes.items() if count)))


def split_sequences(path: Path) -> list[str]:
    """Folder names from lines such as "sequence1"."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise QvggtError(f"{path}: expected lines such as sequence1, got {error}; restore the file") from error
    names = []
    for line in lines:
        number = line.removeprefix("sequence")
        if number == line or not number.isdecimal():
            raise QvggtError(f"{path}: expected lines such as sequence1, got {line[:40]!r}; restore the file")
        names.append(f"seq-{int(number):02d}")
    return names


def _recording(folder: Path, stride: int, depth: str) -> rooms.Recording:
    @functools.cache
    def pose(number: int) -> NDArray[np.float64] | None:
        path = _file(folder, number, "pose.txt")
        matrix = rooms.parse_numbers(path)
        if matrix.shape != (4, 4):
            raise QvggtError(f"{path}: expected a 4x4 matrix, got {len(matrix)} lines; restore the file")
        return rooms.checked_pose(matrix)

    def depths(numbers: Sequence[int]) -> tuple[Path, ...]:
        """Of one kind for a whole sequence, so that its maps never mix."""
        maps = {kind: tuple(_file(folder, number, suffix) for number in numbers) for kind, suffix in SUFFIX.items()}
        return maps[depth] if depth != "auto" else maps["proj" if all(p.is_file() for p in maps["proj"]) else "raw"]

    return rooms.Recording(
        scene=folder.parent.name,
        name=folder.name,
        numbers=rooms.frame_numbers(folder, "frame-", ".color.png"),
        stride=stride,
        image=lambda number: _file(folder, number, "color.png"),
        pose=pose,
        depths=depths,
    )


def _file(folder: Path, number: int, suffix: str) -> Path:
    return folder / f"frame-{number:06d}.{suffix}"
