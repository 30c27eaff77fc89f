"""Photographs as sequences without cameras: ROOT/*.jpg, or ROOT/[CATEGORY/]SEQUENCE/[images/]*.jpg."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from qvggt.data.class_modes import categories
from qvggt.data.co3d import ANNOTATIONS
from qvggt.data.frame_list import FrameList, draw_frames
from qvggt.data.photos import read_upright
from qvggt.data.registry import Question, find_dataset
from qvggt.data.sequence import Frames, SequenceSet, Skipped
from qvggt.errors import QvggtError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NO_PHOTO = re.compile(r"(^|[._-])(depth|mask)([._-]|$)")  # maps that lie beside the images in some data sets
DEPTH = 3  # folders below the root in which sequences are looked for


def read_photos(question: Question, frame_list: FrameList | None = None) -> SequenceSet[Frames]:
    """Frames drawn from each folder of images, as they are stored; where the root holds the images itself, different
    choices of them, turned upright. Indices count a folder's image files in name order. There is no split.

    The choices of one folder: `max_sequences` of them if there are so many, else as many as show every photograph once.
    QvggtError: no such folder, none with enough images, a category that is asked for missing, a list that does not fit.
    """
    question, root = find_dataset("photos").filled(question), question.root
    if not root.is_dir():
        raise QvggtError(f"{root}: is not a folder; give one of photographs, or with a folder of images per sequence")
    folders: dict[str, dict[str, list[Path]]] = {}
    for folder, images in _image_folders(root, DEPTH):
        parts = folder.relative_to(root).parts
        category = parts[0] if len(parts) > 1 else root.resolve().name
        folders.setdefault(category, {})["/".join(parts[1:] or parts)] = images
    photographs = _images(root)
    if not folders and len(photographs) < 2:
        raise QvggtError(
            f"{root}: no *_{question.split}.jgz file in {ANNOTATIONS}, no folder of images and fewer than 2 images; "
            "expected a Co3D-format folder, a folder of photographs, or one with a folder of images per sequence"
        )
    if folders:
        sequences, skipped = _of_folders(question, folders, frame_list)
        beside = f"{root}: {len(photographs)} images beside the folders of images are not read"
        notes = (beside,) if photographs else ()
    else:
        sequences, skipped = _of_one_folder(question, photographs, frame_list), []
        few = f"{root}: {len(photographs)} photographs, fewer than the {question.frames} frames asked for: one sequence"
        notes = (few,) if len(photographs) < (question.frames or 1) else ()
    if not sequences:
        reason = "ask for fewer --frames" if frame_list is None else "the frame list names none of them"
        raise QvggtError(f"{root}: no folder of images has {question.frames} frames; {reason}")
    return SequenceSet(tuple(sequences), tuple(skipped), question.facts(), notes)


def _of_folders(
    question: Question, folders: dict[str, dict[str, list[Path]]], frame_list: FrameList | None
) -> tuple[list[Frames], list[Skipped]]:
    """A sequence per folder that is long enough, or per folder in the list."""
    size = question.frames or 1
    if absent := sorted(set(question.categories) - set(folders)):
        raise QvggtError(f"{question.root / absent[0]}: no such category; present: {', '.join(sorted(folders)[:8])}")
    sequences, skipped = list[Frames](), list[Skipped]()
    for category in question.categories or categories(question.class_mode or "all", folders):
        long_enough = {name: paths for name, paths in folders[category].items() if len(paths) >= size}
        for name in sorted(long_enough)[: question.max_sequences]:
            paths = long_enough[name]
            if frame_list is None:
                indices = draw_frames(question.seed, category, name, len(paths), size)
            elif f"{category}/{name}" in frame_list.frames:
                indices = frame_list.frames[f"{category}/{name}"]
            else:
                skipped.append(Skipped(category, name, "not in frame list"))
                continue
            sequences.append(Frames(category, name, _chosen(paths, indices, f"{category}/{name}"), indices))
    return sequences, skipped


def _of_one_folder(question: Question, paths: list[Path], frame_list: FrameList | None) -> list[Frames]:
    """CATEGORY/0001, ... of one folder of photographs, or those of the list; the category is the folder's name."""
    category = question.root.resolve().name or "photos"
    categories(question.class_mode or "all", [category])  # a mode that names categories does not fit
    if unknown := set(question.categories) - {category}:
        raise QvggtError(f"{question.root}: holds photographs, not the category {min(unknown)}; leave categories out")
    if frame_list is None:
        draws = _draws(question, category, len(paths))
        drawn = {f"{category}/{index:04d}": indices for index, indices in enumerate(draws, 1)}
    else:
        drawn = {key: indices for key, indices in frame_list.frames.items() if key.startswith(f"{category}/")}
    return [
        Frames(category, key.partition("/")[2], _chosen(paths, indices, key), indices, image_reader=read_upright)
        for key, indices in drawn.items()
    ]


def _draws(question: Question, category: str, available: int) -> list[tuple[int, ...]]:
    """Choices of frames that differ in more than their order; every photograph is used once before one is again."""
    size = min(question.frames or 1, available)
    wanted = min(question.max_sequences or -(-available // size), math.comb(available, size))
    chosen: dict[frozenset[int], tuple[int, ...]] = {}
    turn = 0
    while len(chosen) < wanted:
        order = draw_frames(question.seed, category, str(turn), available, available)
        for start in range(0, available, size):
            indices = (*order[start:], *order)[:size]  # the last choice of a turn is filled up from its beginning
            chosen.setdefault(frozenset(indices), indices)
        turn += 1
    return [*chosen.values()][:wanted]


def _chosen(paths: list[Path], indices: tuple[int, ...], key: str) -> tuple[Path, ...]:
    if max(indices) >= len(paths):
        raise QvggtError(
            f"frame list: {key}: frame {max(indices)} is not on disk, {len(paths)} are; restore it or draw a new list"
        )
    return tuple(paths[i] for i in indices)


def _image_folders(folder: Path, depth: int) -> Iterator[tuple[Path, list[Path]]]:
    """(folder, sorted images) of every sequence at most `depth` levels below; its images may lie in `images/`."""
    for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images = _images(child / "images") or _images(child)
        if images:
            yield child, images
        elif depth > 1:
            yield from _image_folders(child, depth - 1)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return [folder / n for n in names if n.lower().endswith(SUFFIXES) and not NO_PHOTO.search(Path(n).stem.lower())]
