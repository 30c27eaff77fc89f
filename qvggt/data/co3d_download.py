"""Co3Dv2 as its own scripts unpack it: CATEGORY/{frame_annotations.jgz, sequence_annotations.jgz, set_lists/*.json}.

VGGT's preprocessing makes the compact CATEGORY_SPLIT.jgz files of these; here they are read without that step, by its
rules (spec evaluation.md 4.1): the frames that set_lists_fewview_dev.json names for a split, in its order, of sequences
whose viewpoint quality is above 0.5.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvggt.data.co3d_annotations import Annotations, Frame, check_frame
from qvggt.errors import QvggtError

FRAMES, SEQUENCES = "frame_annotations.jgz", "sequence_annotations.jgz"
LISTS, PREFERRED = "set_lists", "set_lists_fewview_dev.json"
MIN_QUALITY = 0.5  # of a sequence's viewpoints
ADVICE = "unpack the category again"

Key = tuple[str, int]  # sequence, frame number


@dataclass(frozen=True)
class Downloaded:
    """annotations: as of a compact file. poor: sequences left out for their quality. notes: what a reader must know."""

    annotations: Annotations
    poor: tuple[str, ...]
    notes: tuple[str, ...]


def is_downloaded(folder: Path) -> bool:
    """Whether a folder is such a category."""
    return (folder / FRAMES).is_file()


def downloaded_categories(root: Path) -> list[str]:
    """Sorted names; none where there is no such folder."""
    return sorted(path.name for path in root.iterdir() if is_downloaded(path)) if root.is_dir() else []


def load_downloaded(folder: Path, *splits: str) -> dict[str, Downloaded]:
    """One category, by split. QvggtError names the file and entry at fault."""
    frames, poor = _frames(folder / FRAMES), _poor(folder / SEQUENCES)
    return {split: _split(folder, split, frames, poor) for split in splits}


def _split(folder: Path, split: str, frames: Mapping[Key, Frame], poor: set[str]) -> Downloaded:
    listed = _listed(folder, split)
    notes = []
    if listed is None:
        notes.append(f"{folder / LISTS}: names no frame of any split, so all frames of {FRAMES} are taken")
    keys = [*frames] if listed is None else [key for key in listed if key in frames]
    if listed is not None and len(keys) < len(listed):
        notes.append(f"{folder}: {len(listed) - len(keys)} frames of its set lists are not annotated and left out")
    annotations: Annotations = {}
    for key in keys:
        if key[0] not in poor:
            annotations.setdefault(key[0], []).append(frames[key])
    return Downloaded(annotations, tuple(sorted(poor.intersection(name for name, _ in keys))), tuple(notes))


def _frames(path: Path) -> dict[Key, Frame]:
    """Every annotated frame, in the compact form."""
    found: dict[Key, Frame] = {}
    for index, entry in enumerate(_entries(path)):
        where = f"{path}: frame {index}"
        try:
            key = _key(entry["sequence_name"], entry["frame_number"])
            image, view, depth = entry["image"], entry["viewpoint"], entry.get("depth")
            frame = {"filepath": image["path"], "image_size": image["size"]}
            frame |= {name: view[name] for name in ("R", "T", "focal_length", "principal_point")}
            if depth is not None and depth.get("path") is not None:
                frame |= {"depth_path": depth["path"], "depth_scale": depth.get("scale_adjustment", 1.0)}
            bounds = view.get("intrinsics_format", "ndc_isotropic") == "ndc_norm_image_bounds"
        except (KeyError, TypeError, AttributeError) as error:
            raise QvggtError(f"{where}: expected a frame annotation of Co3D, got {error!r}; {ADVICE}") from error
        check_frame(frame, where)
        found[key] = _isotropic(frame) if bounds else frame
    return found


def _isotropic(frame: Frame) -> Frame:
    """Of Co3D's first version: each axis in half image sides of its own -> both in half the shorter one."""
    height, width = frame["image_size"]
    shorter = min(height, width)
    focal, principal = (
        [value * side / shorter for value, side in zip(frame[name], (width, height), strict=True)]
        for name in ("focal_length", "principal_point")
    )
    return {**frame, "focal_length": focal, "principal_point": principal}


def _listed(folder: Path, split: str) -> list[Key] | None:
    """Frames of a split, each once; None where no list names a frame of any split. The few-view lists have a say before
    others: those of many views divide the frames of one sequence between the splits."""
    files = sorted((folder / LISTS).glob("*.json"))
    preferred = [path for path in files if path.name == PREFERRED]
    lists = {path: _list(path) for path in preferred or files}
    if not any(any(keys.values()) for keys in lists.values()):
        return None
    return [*dict.fromkeys(key for keys in lists.values() for key in keys.get(split, []))]


def _list(path: Path) -> dict[str, list[Key]]:
    """Split -> frames of one set list; its entries are [sequence, frame number, image path]."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {str(split): [_key(*entry[:2]) for entry in entries] for split, entries in data.items()}
    except (OSError, ValueError, RecursionError, TypeError, AttributeError) as error:
        raise QvggtError(f"{path}: expected lists of [sequence, frame number, path], got {error}; {ADVICE}") from error


def _poor(path: Path) -> set[str]:
    """Sequences whose stated quality is too low; a category without the file states none."""
    if not path.is_file():
        return set()
    poor = set()
    for index, entry in enumerate(_entries(path)):
        name = entry.get("sequence_name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise QvggtError(f"{path}: entry {index}: expected a sequence annotation of Co3D; {ADVICE}")
        quality = entry.get("viewpoint_quality_score")
        if isinstance(quality, int | float) and not (math.isfinite(quality) and quality > MIN_QUALITY):
            poor.add(name)
    return poor


def _key(sequence: Any, number: Any) -> Key:
    if not isinstance(sequence, str) or not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"sequence {str(sequence)[:40]!r}, frame number {str(number)[:40]!r}")
    return sequence, number


def _entries(path: Path) -> Iterator[Any]:
    """The objects of a gzip-compressed JSON list."""
    try:
        data = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise QvggtError(f"{path}: expected gzip-compressed JSON, got {error}; {ADVICE}") from error
    if not isinstance(data, list):
        raise QvggtError(f"{path}: expected a list of annotations, got {type(data).__name__}; {ADVICE}")
    return iter(data)
