"""Room scans, 7-Scenes and Neural RGBD: what both readers share (spec evaluation.md 4.3).

Frames are every `stride`-th of a sequence, in order; the first is the reference camera. A frame whose stored pose is no
camera (not finite where tracking was lost, or no rotation) is left out after the stride and counted, never replaced by
an identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt.data.cameras import are_cameras
from qvggt.data.depth_png import read_millimetres
from qvggt.data.frame_list import FrameList
from qvggt.data.registry import Question, find_dataset
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.data.sequence import SequenceSet, Skipped
from qvggt.errors import QvggtError

CENTRE = 320.0, 240.0  # pixels of 640x480 images
MIN_FRAMES = 2  # a pose error needs a pair


def settled(question: Question, name: str) -> tuple[Question, int]:
    """The question with the defaults of that data set, and the stride; QvggtError for frames without a pair."""
    question = find_dataset(name).filled(question)
    if question.frames is not None and question.frames < MIN_FRAMES:
        raise QvggtError(f"rooms: expected frames >= {MIN_FRAMES} or none, got {question.frames}")
    assert question.stride is not None
    return question, question.stride


@dataclass(frozen=True)
class Recording:
    """A sequence on disk before frames are chosen. numbers: of the frames, ascending; pose(number) -> world-from-camera
    [4, 4] or None where it was lost; depths(numbers) -> files; stride: between frames that are taken."""

    scene: str
    name: str
    numbers: tuple[int, ...]
    stride: int
    image: Callable[[int], Path]
    pose: Callable[[int], NDArray[np.float64] | None]
    depths: Callable[[Sequence[int]], tuple[Path, ...]]

    @property
    def key(self) -> str:
        return f"{self.scene}/{self.name}"


def scene_folders(question: Question, marker: str) -> list[Path]:
    """Folders of the asked scenes, sorted; a scene is a folder that holds `marker`. QvggtError when one is not."""
    root = question.root
    if not root.is_dir():
        raise QvggtError(f"{root}: root is not a folder; give the folder that holds the scenes")
    present = sorted(path.name for path in root.iterdir() if (path / marker).exists())
    if not present:
        raise QvggtError(f"{root}: no scene, expected folders that hold {marker}; give the folder of the scenes")
    for scene in question.categories:
        if scene not in present:
            raise QvggtError(f"{root / scene}: no such scene with a {marker}; present: {', '.join(present[:8])}")
    return [root / scene for scene in question.categories or present]


def answer(
    question: Question,
    recordings: Sequence[Recording],
    frame_list: FrameList | None,
    focal: float,
    missing: Sequence[Skipped] = (),
) -> SequenceSet[EvalSequence]:
    """Sequences of the recordings' frames, by the stride or by a stored list; focal: pixels; missing: no recordings.
    QvggtError for a file that is not there, or when nothing is left."""
    sequences: list[EvalSequence] = []
    skipped, lost = [*missing], 0
    for recording in recordings:
        if frame_list is None:
            numbers = list(recording.numbers[:: recording.stride])[: question.frames]
        elif recording.key in frame_list.frames:
            numbers = list(frame_list.frames[recording.key])
            if absent := sorted(set(numbers) - set(recording.numbers)):
                raise QvggtError(
                    f"frame list: {recording.key}: frame {absent[0]} is not on disk; restore it or draw a new list"
                )
        else:
            skipped.append(Skipped(recording.scene, recording.name, "not in frame list"))
            continue
        poses = {number: pose for number in numbers if (pose := recording.pose(number)) is not None}
        lost += len(numbers) - len(poses)
        if len(poses) < MIN_FRAMES:
            skipped.append(Skipped(recording.scene, recording.name, "too few frames"))
        else:
            sequences.append(_sequence(recording, poses, focal))
    notes = (f"{lost} frames are left out: their pose is no camera (not finite, or no rotation)",) if lost else ()
    facts = question.facts("root", "stride", "frames", "max_sequences", "depth")
    result = SequenceSet(tuple(sequences), tuple(skipped), {"scenes": list(question.categories), **facts}, notes)
    if not sequences:
        counts = ", ".join(f"{count} {reason}" for reason, count in result.skip_counts().items()) or "none there"
        why = f"{question.root}: no usable sequence ({'; '.join([counts, *notes])})"
        raise QvggtError(f"{why}; check the root, the scenes and the stride")
    return result


def _sequence(recording: Recording, poses: Mapping[int, NDArray[np.float64]], focal: float) -> EvalSequence:
    """Of the frames in `poses`; QvggtError for a missing image or depth file."""
    numbers = tuple(poses)
    images, depths = tuple(map(recording.image, numbers)), recording.depths(numbers)
    for path in (*images, *depths):
        if not path.is_file():
            raise QvggtError(f"{path}: no such file, but {recording.key} has that frame; restore it")
    matrix = np.array([[focal, 0, CENTRE[0]], [0, focal, CENTRE[1]], [0, 0, 1]])
    return EvalSequence(
        category=recording.scene,
        name=recording.name,
        image_paths=images,
        frame_indices=numbers,
        extrinsics=np.asarray(np.linalg.inv(np.stack([*poses.values()]))[:, :3], np.float64),
        intrinsics=np.repeat(matrix[None], len(numbers), axis=0),
        depth_paths=depths,
        depth_reader=read_millimetres,
    )


def parse_numbers(path: Path) -> NDArray[np.float64]:
    """A text file of numbers, [lines, columns]; QvggtError for anything else."""
    try:
        rows = [[float(word) for word in line.split()] for line in path.read_text().splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise QvggtError(f"{path}: no such pose file; restore it") from error
    except (OSError, ValueError) as error:
        raise QvggtError(f"{path}: expected lines of four numbers, got {error}; restore the file") from error
    if not rows or any(len(row) != 4 for row in rows):
        raise QvggtError(f"{path}: expected lines of four numbers, a 4x4 matrix per frame; restore the file")
    return np.array(rows, np.float64)


def checked_pose(matrix: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """A rigid world-from-camera matrix [4, 4], None when it is not."""
    rigid = are_cameras(matrix[:3, :3], matrix[:3, 3]) and np.allclose(matrix[3], [0, 0, 0, 1])
    return matrix if rigid else None


def frame_numbers(folder: Path, prefix: str, suffix: str) -> tuple[int, ...]:
    """Numbers of the files prefix<digits>suffix of a folder, ascending."""
    stems = [path.name[len(prefix) : -len(suffix)] for path in folder.glob(f"{prefix}*{suffix}")]
    return tuple(sorted(int(stem) for stem in stems if stem.isdecimal()))
