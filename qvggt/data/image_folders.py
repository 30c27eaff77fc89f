"""Folders of photographs as sequences without cameras: ROOT/[CATEGORY/]SEQUENCE/[images/]*.jpg."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from qvggt.data.class_modes import categories
from qvggt.data.co3d import ANNOTATIONS
from qvggt.data.frame_list import FrameList, draw_frames
from qvggt.data.registry import Question
from qvggt.data.sequence import Frames, SequenceSet
from qvggt.errors import QvggtError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NO_PHOTO = re.compile(r"(^|[._-])(depth|mask)([._-]|$)")  # maps that lie beside the images in some data sets
DEPTH = 3  # folders below the root in which sequences are looked for


def read_folders(question: Question, frame_list: FrameList | None = None) -> SequenceSet[Frames]:
    """Frames drawn from each folder of images; their indices count its image files in name order. There is no split.
    QvggtError: no such folder, none with enough images, a category that the class mode asks for missing."""
    root, count = question.root, question.frames or 1
    folders: dict[str, dict[str, list[Path]]] = {}
    for folder, images in _image_folders(root, DEPTH):
        parts = folder.relative_to(root).parts
        category = parts[0] if len(parts) > 1 else root.resolve().name
        folders.setdefault(category, {})["/".join(parts[1:] or parts)] = images
    if not folders:
        raise QvggtError(
            f"{root}: no *_{question.split}.jgz file in {ANNOTATIONS} and no folder of images; expected a Co3D-format "
            "folder, or a folder with one folder of images per sequence"
        )
    sequences: list[Frames] = []
    for category in categories(question.class_mode or "all", folders):
        long_enough = {name: paths for name, paths in folders[category].items() if len(paths) >= count}
        for name in sorted(long_enough)[: question.max_sequences]:
            paths = long_enough[name]
            indices = draw_frames(question.seed, category, name, len(paths), count)
            sequences.append(Frames(category, name, tuple(paths[i] for i in indices), indices))
    if not sequences:
        raise QvggtError(f"{root}: no folder of images has {count} frames; ask for fewer --frames")
    return SequenceSet(tuple(sequences), (), question.facts())


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
    names = sorted(os.listdir(folder))
    return [folder / n for n in names if n.lower().endswith(SUFFIXES) and not NO_PHOTO.search(Path(n).stem.lower())]
