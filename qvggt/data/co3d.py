"""Co3Dv2 reader: which frames of which sequences, with cameras in OpenCV form (spec evaluation.md 4.1 and 4.2).

Per category, in sorted order of sequence names: a sequence without a folder is skipped, one with fewer than
`min_frames` annotated frames is skipped, one with any failed reconstruction (sum(T) > 1e5) or with any pose that is no
camera is rejected as a whole. Without compact annotation files, those of the download are read (`co3d_download`).
Frames come from `frame_list`, unsorted; frame 0 of that order is the reference camera of the pose metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt.data.cameras import NO_CAMERA
from qvggt.data.class_modes import categories as categories_of
from qvggt.data.co3d_annotations import (
    Annotations,
    Frame,
    annotation_path,
    are_sane_cameras,
    load_annotations,
    translation_is_sane,
)
from qvggt.data.co3d_download import FRAMES, downloaded_categories, is_downloaded, load_downloaded
from qvggt.data.depth_png import read_depth
from qvggt.data.frame_list import FrameList, draw_frames
from qvggt.data.image_file import image_size
from qvggt.data.ndc import ndc_to_intrinsics
from qvggt.data.registry import Question, find_dataset
from qvggt.data.sequence import Sequence, SequenceSet, Skipped, list_config
from qvggt.errors import QvggtError
from qvggt.geometry import pytorch3d_to_opencv

ANNOTATIONS = "annotations"  # folder of the annotation files below the root, unless another one is given

FIELDS = ("root", "annotations", "categories", "split", "frames", "min_frames", "seed", "max_sequences")
"""Of a question, those that decide what is read."""

SOURCE = (
    "VGGT's evaluation makes them (preprocess_co3d.py; ready ones: huggingface.co/datasets/JianyuanWang/co3d_anno), "
    f"and qvggt annotate; without them ROOT/CATEGORY/{FRAMES} of Co3D's own download is read"
)


@dataclass(frozen=True)
class Category:
    """path: of its annotations. sequences: cut to max_sequences and sorted by name. poor: left out by Co3D's own
    quality score."""

    name: str
    path: Path
    sequences: Annotations
    poor: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def is_annotated(question: Question) -> bool:
    """Whether there is an annotation file of the question's split, or a category as it is downloaded."""
    return bool(_present(question))


def read_sequences(question: Question, frame_list: FrameList | None = None) -> SequenceSet[Sequence]:
    """Apply the protocol. With a stored `frame_list`, exactly its sequences and frames are used (seed and min_frames
    have no say); without one, the frames are those `draw_frame_list` draws.

    QvggtError: no annotations, a broken annotation file, a sequence shorter than the frames asked for, a list that does
    not fit the annotations or the question, an unreadable image header where image_size is not annotated, nothing left.
    """
    question, root = _settled(question), question.root
    if not root.is_dir():
        raise QvggtError(f"{root}: Co3D root is not a folder; give the folder that holds the categories")
    if frame_list is not None:
        _check_list(question, frame_list)
    sequences: list[Sequence] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    for found in _categories(question):
        category, path = found.name, found.path
        notes += found.notes
        skipped += [Skipped(category, name, "low viewpoint quality") for name in found.poor]
        for name, frames in found.sequences.items():
            indices = None if frame_list is None else frame_list.frames.get(f"{category}/{name}")
            reason = _unusable(question, frames, listed=frame_list is not None)
            if frame_list is not None and indices is None:
                reason = "not in frame list"
            elif not (root / category / name).is_dir():
                reason = "folder missing"
            if reason:
                skipped.append(Skipped(category, name, reason))
                continue
            indices = indices or _draw(question, category, name, frames, path)
            sequences.append(_sequence(root, category, name, frames, indices, path))
    result = SequenceSet(tuple(sequences), tuple(skipped), question.facts(*FIELDS), tuple(notes))
    if not sequences:
        counts = ", ".join(f"{count} {reason}" for reason, count in result.skip_counts().items()) or "none annotated"
        raise QvggtError(
            f"{root}: no usable sequence in split {question.split} ({counts}); "
            f"check the root, the categories and min_frames ({question.min_frames})"
        )
    return result


def draw_frame_list(question: Question) -> FrameList:
    """Draw frames for every annotated sequence that passes the rules; looks at annotations only, never at images, so
    the list is the same whatever part of the data is on disk."""
    question = _settled(question)
    frames = {
        f"{found.name}/{name}": _draw(question, found.name, name, entries, found.path)
        for found in _categories(question)
        for name, entries in found.sequences.items()
        if _unusable(question, entries) is None
    }
    if not frames:
        raise QvggtError(
            f"{question.annotations}: no usable sequence in split {question.split} has {question.min_frames} frames; "
            "lower min_frames"
        )
    return FrameList(frames, list_config(question.facts(*FIELDS)))


def _check_list(question: Question, frame_list: FrameList) -> None:
    drawn = frame_list.config.get("split", question.split)
    if drawn != question.split:
        raise QvggtError(f"frame list: expected split {question.split}, got a list of split {drawn}; give that split")
    for key, indices in frame_list.frames.items():
        if len(indices) != question.frames:
            raise QvggtError(
                f"frame list: {key}: expected {question.frames} frames, got {len(indices)}; "
                "give that number of frames or draw a new list"
            )


def _settled(question: Question) -> Question:
    """With the defaults of Co3D, the place of the annotations, and the categories of the class mode."""
    categories = question.categories
    if question.class_mode is not None and (present := _present(question)):
        categories = categories_of(question.class_mode, present)
    question = replace(question, annotations=_folder(question), categories=categories, class_mode=None)
    return find_dataset("co3d").filled(question)


def _folder(question: Question) -> Path:
    return question.annotations or question.root / ANNOTATIONS


def _present(question: Question) -> list[str]:
    """Sorted categories that have an annotation file of the question's split; without one, those as downloaded."""
    folder, suffix = _folder(question), f"_{question.split}.jgz"
    compact = sorted(path.name[: -len(suffix)] for path in folder.glob(f"*{suffix}")) if folder.is_dir() else []
    return compact or downloaded_categories(question.root)


def _categories(question: Question) -> Iterator[Category]:
    """Those of the question."""
    folder, present = _folder(question), _present(question)
    if not present and is_downloaded(question.root):
        raise QvggtError(f"{question.root}: is a category of Co3D itself (it holds {FRAMES}); give the folder above it")
    if not present:
        raise QvggtError(
            f"{folder}: no *_{question.split}.jgz annotation file; "
            f"give the folder of the Co3D annotation files. {SOURCE}"
        )
    for category in question.categories or present:
        path = annotation_path(folder, category, question.split)
        if category not in present:
            raise QvggtError(
                f"{path}: no annotation file for category {category}; "
                f"present: {', '.join(present[:8])}{', ...' if len(present) > 8 else ''}"
            )
        if path.is_file():
            yield Category(category, path, _first(load_annotations(path), question))
        else:
            found = load_downloaded(question.root / category, question.split)[question.split]
            place, sequences = question.root / category / FRAMES, _first(found.annotations, question)
            yield Category(category, place, sequences, found.poor, found.notes)


def _first(annotations: Annotations, question: Question) -> Annotations:
    return {name: annotations[name] for name in sorted(annotations)[: question.max_sequences]}


def _unusable(question: Question, frames: list[Frame], listed: bool = False) -> str | None:
    assert question.min_frames is not None
    if not listed and len(frames) < question.min_frames:
        return "too few frames"
    if not all(map(translation_is_sane, frames)):
        return "bad translation"
    return None if are_sane_cameras(frames) else NO_CAMERA


def _draw(question: Question, category: str, name: str, frames: list[Frame], path: Path) -> tuple[int, ...]:
    assert question.frames is not None
    if len(frames) < question.frames:
        raise QvggtError(
            f"{path}: sequence {name}: expected at least {question.frames} frames, got {len(frames)}; "
            "ask for fewer frames or raise min_frames to skip it"
        )
    return draw_frames(question.seed, category, name, len(frames), question.frames)


def _sequence(
    root: Path, category: str, name: str, frames: list[Frame], indices: tuple[int, ...], path: Path
) -> Sequence:
    if max(indices) >= len(frames):
        raise QvggtError(
            f"frame list: {category}/{name}: expected indices below {len(frames)} ({path}), got {max(indices)}; "
            "draw the list again from these annotations"
        )
    drawn = [frames[index] for index in indices]
    images = tuple(root / frame["filepath"] for frame in drawn)
    depths = tuple(_depth_path(root, frame) for frame in drawn)
    scales = {path: frame.get("depth_scale", 1.0) for path, frame in zip(depths, drawn, strict=True) if path}
    scales = {path: scale for path, scale in scales.items() if scale != 1}
    intrinsics = [
        ndc_to_intrinsics(
            frame["focal_length"],
            frame["principal_point"],
            *(frame.get("image_size") or image_size(image, upright=False)[::-1]),
        )
        for frame, image in zip(drawn, images, strict=True)
    ]
    return Sequence(
        category=category,
        name=name,
        image_paths=images,
        extrinsics=pytorch3d_to_opencv([frame["R"] for frame in drawn], [frame["T"] for frame in drawn]),
        intrinsics=np.stack(intrinsics),
        depth_paths=depths,
        depth_reader=partial(_read_scaled, scales=scales) if scales else read_depth,
        frame_indices=indices,
    )


def _read_scaled(path: Path, scales: dict[Path, float]) -> NDArray[np.float32]:
    """Depth in units of the translations: Co3D scales its cameras after its depth maps were made."""
    return read_depth(path) * np.float32(scales.get(path, 1.0))


def _depth_path(root: Path, frame: Frame) -> Path | None:
    """The annotated depth map, or the one in Co3D's usual place, if the file is there."""
    image = Path(frame["filepath"])
    usual = image.parent.parent / "depths" / f"{image.name}.geometric.png"
    path = root / frame.get("depth_path", usual)
    return path if path.is_file() else None
