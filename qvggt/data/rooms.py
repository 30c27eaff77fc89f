"""Room scans, 7-Scenes and Neural RGBD: what both readers share (spec evaluation.md 4.3).

Frames are every `stride`-th of a sequence, in order; the first is the reference camera. A frame whose stored pose is
not finite (tracking was lost) is left out after the stride and counted, never replaced by an identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt.data.depth_png import read_millimetres
from qvggt.data.frame_list import FrameList
from qvggt.data.registry import Question, find_dataset
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.data.sequence import SequenceSet, Skipped
from qvggt.errors import QvggtError

MIN_FRAMES = 2  # a pose error needs a pair
ORTHONORMAL = 1e-2  # largest |R^T R - 1| of a stored pose: text files round, 7-Scenes to about 1e-7


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
    [4, 4] or None where it was lost; stride: between chosen frames."""

    scene: str
    name: str
    numbers: tuple[int, ...]
    stride: int
    image: Callable[[int], Path]
    pose: Callable[[int], NDArray[np.float64] | None]

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


def choose(
    question: Question, recordings: Sequence[Recording], frame_list: FrameList | None
) -> tuple[list[tuple[Recording, list[int]]], list[Skipped], list[str]]:
    """(recording and its frame numbers, what is left out, notes) by the stride or by a stored list."""
    kept: list[tuple[Recording, list[int]]] = []
    skipped: list[Skipped] = []
    lost = 0
    for recording in recordings:
        if frame_list is None:
            numbers = list(recording.numbers[:: recording.stride])[: question.frames]
        elif recording.key in frame_list.frames:
            numbers = list(frame_list.frames[recording.key])
            if missing := sorted(set(numbers) - set(recording.numbers)):
                raise QvggtError(
                    f"frame list: {recording.key}: frame {missing[0]} is not on disk; restore it or draw a new list"
                )
        else:
            skipped.append(Skipped(recording.scene, recording.name, "not in frame list"))
            continue
        tracked = [number for number in numbers if recording.pose(number) is not None]
        lost += len(numbers) - len(tracked)
        if len(tracked) < MIN_FRAMES:
            skipped.append(Skipped(recording.scene, recording.name, "too few frames"))
        else:
            kept.append((recording, tracked))
    notes = [f"{lost} frames without a finite pose are left out"] if lost else []
    return kept, skipped, notes


def build(
    recording: Recording,
    numbers: Sequence[int],
    focal: float,
    centre: tuple[float, float],
    depth_paths: Sequence[Path],
) -> EvalSequence:
    """The sequence of the chosen frames; QvggtError for a missing image or depth file."""
    images = tuple(recording.image(number) for number in numbers)
    for path in (*images, *depth_paths):
        if not path.is_file():
            raise QvggtError(f"{path}: no such file, but {recording.key} has that frame; restore it")
    poses = np.stack([_known(recording.pose(number)) for number in numbers])
    matrix = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    return EvalSequence(
        category=recording.scene,
        name=recording.name,
        image_paths=images,
        extrinsics=np.asarray(np.linalg.inv(poses)[:, :3], np.float64),
        intrinsics=np.repeat(matrix[None], len(numbers), axis=0),
        depth_paths=tuple(depth_paths),
        frame_indices=tuple(numbers),
        depth_reader=read_millimetres,
    )


def finish(
    question: Question, sequences: Sequence[EvalSequence], skipped: Sequence[Skipped], notes: Sequence[str]
) -> SequenceSet[EvalSequence]:
    """The set; QvggtError when it is empty."""
    facts = question.facts("root", "stride", "frames", "max_sequences", "depth")
    config = {"scenes": list(question.categories), **facts}
    result = SequenceSet(tuple(sequences), tuple(skipped), config, tuple(notes))
    if not sequences:
        counts = ", ".join(f"{count} {reason}" for reason, count in result.skip_counts().items()) or "none there"
        raise QvggtError(f"{question.root}: no usable sequence ({counts}); check the root, the scenes and the stride")
    return result


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


def checked_pose(matrix: NDArray[np.float64], place: str) -> NDArray[np.float64] | None:
    """A rigid world-from-camera matrix [4, 4], None when it is not finite; QvggtError when it is not rigid."""
    if not np.isfinite(matrix).all():
        return None
    rotation = matrix[:3, :3]
    error = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if error > ORTHONORMAL or np.linalg.det(rotation) < 0 or not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise QvggtError(f"{place}: expected a rigid 4x4 world-from-camera pose, got a matrix off by {error:.2g}")
    return matrix


def _known(pose: NDArray[np.float64] | None) -> NDArray[np.float64]:
    assert pose is not None
    return pose


def frame_numbers(folder: Path, prefix: str, suffix: str) -> tuple[int, ...]:
    """Numbers of the files prefix<digits>suffix of a folder, ascending."""
    stems = [path.name[len(prefix) : -len(suffix)] for path in folder.glob(f"{prefix}*{suffix}")]
    return tuple(sorted(int(stem) for stem in stems if stem.isdecimal()))
