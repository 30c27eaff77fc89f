"""Photographs as sequences without cameras: ROOT/*.jpg, or ROOT/[CATEGORY/]SEQUENCE/[images/]*.jpg."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from qvggt.data.class_modes import categories
from qvggt.data.co3d import ANNOTATIONS
from qvggt.data.frame_list import FrameList, draw_frames
from qvggt.data.image_file import pages_of
from qvggt.data.photos import image_suffixes, left_out
from qvggt.data.registry import Question, find_dataset
from qvggt.data.sequence import Frames, SequenceSet, Skipped
from qvggt.errors import QvggtError

NO_PHOTO = re.compile(r"(^|[._-])(depth|mask)([._-]|$)")  # maps that lie beside the images in some data sets
DEPTH = 3  # folders below the root in which sequences are looked for


def read_photos(question: Question, frame_list: FrameList | None = None) -> SequenceSet[Frames]:
    """Frames drawn from each folder of images; where the root holds the images itself, different choices of them.
    Indices count a folder's image files in name order. There is no split. The notes say what is not read.

    The choices of one folder: `max_sequences` of them if there are so many, else as many as show every photograph once.
    QvggtError: no such folder, none with enough images, a category that is asked for missing, a list that does not fit.
    """
    question, root = find_dataset("photos").filled(question), question.root
    if not root.is_dir():
        raise QvggtError(f"{root}: is not a folder; give one of photographs, or with a folder of images per sequence")
    folders: dict[str, dict[str, list[Path]]] = {}
    photographs, unread = _files(root)
    for folder, images, others in _scan(root, DEPTH):
        unread += others
        if images:
            parts = folder.relative_to(root).parts
            category = parts[0] if len(parts) > 1 else root.resolve().name
            folders.setdefault(category, {})["/".join(parts[1:] or parts)] = images
    rest = _unread(unread)
    if not folders and len(photographs) < 2:
        raise QvggtError(
            f"{root}: no *_{question.split}.jgz file in {ANNOTATIONS}, no folder of images and fewer than 2 images; "
            "expected a Co3D-format folder, a folder of photographs, or one with a folder of images per sequence"
            + (f"; left out: {rest}" if rest else "")
        )
    if folders:
        sequences, skipped = _of_folders(question, folders, frame_list)
        beside = f"{root}: {len(photographs)} images beside the folders of images are not read"
        notes = (beside,) if photographs else ()
    else:
        sequences, skipped = _of_one_folder(question, photographs, frame_list), []
        few = f"{root}: {len(photographs)} photographs, fewer than the {question.frames} frames asked for: one sequence"
        notes = (few,) if len(photographs) < (question.frames or 1) else ()
    if rest:
        notes = (*notes, f"{root}: left out: {rest}")
    if not sequences:
        reason = "ask for fewer --frames" if frame_list is None else "the frame list names none of them"
        raise QvggtError(f"{root}: no folder of images has {question.frames} frames; {reason}")
    return SequenceSet(tuple(sequences), tuple(skipped), question.facts(), (*notes, *_with_pages(sequences)))


def _with_pages(sequences: list[Frames]) -> tuple[str, ...]:
    """A note where drawn files hold more than a picture."""
    paths = {path for frames in sequences for path in frames.image_paths}
    many = sum(len(pages) + others > 1 for pages, others in map(pages_of, paths))
    return (
        (f"{many} images hold several pictures (frames, pages, previews); the first of each is used",) if many else ()
    )


def _unread(paths: list[Path]) -> str:
    """What is no photograph, by kind and count."""
    maps = [path for path in paths if _is_map(path)]
    rest = left_out(path for path in paths if not _is_map(path))
    return ", ".join(filter(None, [rest, f"{len(maps)} named as depth maps or masks" if maps else ""]))


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
        short = [name for name in sorted(folders[category]) if name not in long_enough]
        skipped += [Skipped(category, name, "too few frames") for name in short]
        for name in sorted(long_enough)[: question.max_sequences]:
            paths = long_enough[name]
            if frame_list is None:
                # the name of the root is no part of the data: a renamed folder gives the same frames
                drawn_by = "" if category == question.root.resolve().name else category
                indices = draw_frames(question.seed, drawn_by, name, len(paths), size)
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
        draws = _draws(question, len(paths))
        drawn = {f"{category}/{index:04d}": indices for index, indices in enumerate(draws, 1)}
    else:
        drawn = {key: indices for key, indices in frame_list.frames.items() if key.startswith(f"{category}/")}
    return [
        Frames(category, key.partition("/")[2], _chosen(paths, indices, key), indices) for key, indices in drawn.items()
    ]


def _draws(question: Question, available: int) -> list[tuple[int, ...]]:
    """Choices of frames that differ in more than their order; every photograph is used once before one is again."""
    size = min(question.frames or 1, available)
    wanted = min(question.max_sequences or -(-available // size), math.comb(available, size))
    chosen: dict[frozenset[int], tuple[int, ...]] = {}
    turn = 0
    while len(chosen) < wanted:
        order = draw_frames(question.seed, "", str(turn), available, available)
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


def _scan(folder: Path, depth: int) -> Iterator[tuple[Path, list[Path], list[Path]]]:
    """(folder, sorted images, other files) of every folder at most `depth` levels below, down to those that hold
    images, which may lie in `images/`."""
    for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images, others = _files(child / "images")
        if not images:
            images, beside = _files(child)
            others += beside
        yield child, images, others
        if not images and depth > 1:
            yield from _scan(child, depth - 1)


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """(photographs, other files) of a folder, sorted."""
    if not folder.is_dir():
        return [], []
    suffixes = image_suffixes()
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    images = [path for path in files if path.suffix.lower() in suffixes and not _is_map(path)]
    return images, sorted({*files}.difference(images))


def _is_map(path: Path) -> bool:
    return NO_PHOTO.search(path.stem.lower()) is not None
