"""Compact Co3Dv2 annotation files, `<category>_<split>.jgz` (spec evaluation.md 4.1).

gzip(JSON {sequence: [frame, ...]}); a frame has filepath (relative to the Co3D root), R [3][3] and T [3] (PyTorch3D),
focal_length [2] and principal_point [2] (isotropic NDC, see `ndc`). Three keys are ours and optional:
image_size [H, W], depth_path (relative to the root) and depth_scale (its depth times this is in units of T).
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from qvggt.data.cameras import are_cameras
from qvggt.errors import QvggtError
from qvggt.files import atomic_write

Frame = dict[str, Any]
Annotations = dict[str, list[Frame]]

_SHAPES: dict[str, tuple[int, ...]] = {"R": (3, 3), "T": (3,), "focal_length": (2,), "principal_point": (2,)}


def annotation_path(folder: str | Path, category: str, split: str) -> Path:
    return Path(folder) / f"{category}_{split}.jgz"


def load_annotations(path: str | Path) -> Annotations:
    """Parse and check one file; QvggtError names the file, sequence, frame and key at fault."""
    path = Path(path)
    try:
        data = json.loads(gzip.decompress(path.read_bytes()))
    except FileNotFoundError as error:
        raise QvggtError(f"{path}: annotation file is missing; check the category, split and folder") from error
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise QvggtError(f"{path}: expected gzip-compressed JSON, got {error}; make the file again") from error
    if not isinstance(data, dict):
        raise QvggtError(f"{path}: expected an object of sequences, got {type(data).__name__}; make the file again")
    for name, frames in data.items():
        if not isinstance(frames, list):
            raise QvggtError(f"{path}: sequence {name}: expected a list of frames, got {type(frames).__name__}")
        for index, frame in enumerate(frames):
            check_frame(frame, f"{path}: sequence {name}, frame {index}")
    return data


def write_annotations(path: str | Path, annotations: Annotations) -> None:
    """Write atomically; equal annotations give equal bytes (no time stamp in the gzip header)."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(json.dumps(annotations, separators=(",", ":")).encode(), mtime=0))


def check_frame(frame: Any, where: str) -> None:
    """QvggtError, beginning with `where`, unless it is a frame."""
    if not isinstance(frame, dict):
        raise QvggtError(f"{where}: expected an object, got {type(frame).__name__}")
    for key in ("filepath", "depth_path"):
        if key in frame or key == "filepath":
            _check_relative(frame.get(key), f"{where}, key {key}")
    for key, shape in _SHAPES.items():
        if key not in frame:
            raise QvggtError(f"{where}: key {key} is missing; make the annotations again")
        if not _has_shape(frame[key], shape):
            raise QvggtError(f"{where}, key {key}: expected numbers of shape {shape}, got {_short(frame[key])}")
    size = frame.get("image_size", [1, 1])
    if not (_has_shape(size, (2,)) and all(isinstance(side, int) and side > 0 for side in size)):
        raise QvggtError(f"{where}, key image_size: expected [H, W] in pixels, got {_short(size)}")
    scale = frame.get("depth_scale", 1)
    if not (_has_shape(scale, ()) and 0 < scale < math.inf):
        raise QvggtError(f"{where}, key depth_scale: expected a number above 0, got {_short(scale)}")


def _check_relative(value: Any, where: str) -> None:
    if not isinstance(value, str) or not value:
        raise QvggtError(f"{where}: expected a path relative to the Co3D root, got {_short(value)}")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise QvggtError(f"{where}: expected a path inside the Co3D root, got {_short(value)}")


def _has_shape(value: Any, shape: tuple[int, ...]) -> bool:
    """Nested lists of that shape; NaN and infinity pass (the readers' rules deal with them)."""
    if not shape:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, list) and len(value) == shape[0] and all(_has_shape(item, shape[1:]) for item in value)


def are_sane_cameras(frames: list[Frame]) -> bool:
    """Whether every frame has a camera (see `cameras`)."""
    columns = ([frame[key] for frame in frames] for key in ("R", "T", "focal_length"))
    return not frames or bool(are_cameras(*columns).all())


def translation_is_sane(frame: Frame) -> bool:
    """The reference protocol's test for a failed reconstruction: sum(T) <= 1e5 (spec 4.2); NaN fails it too."""
    return all(map(math.isfinite, frame["T"])) and math.fsum(frame["T"]) <= 1e5


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
