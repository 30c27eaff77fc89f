"""A stored sequence (.npz of `worst.store_worst`), checked before anything is drawn of it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError

LARGEST = 1 << 30  # bytes of a file's arrays, all together

Array = NDArray[Any]


@dataclass(frozen=True)
class View:
    """What the ground truth or one candidate says of S frames, in the unit of the ground truth (see `cK_scale`).

    extrinsics [S, 3, 4] camera-from-world (OpenCV, world = first camera), intrinsics [S, 3, 3] of the stored maps;
    depth [S, h, w] or None (0 or not finite: unknown); points [M, 3], colors uint8 [M, 3] or None.
    """

    extrinsics: Array
    intrinsics: Array
    depth: Array | None
    points: Array | None
    colors: Array | None


@dataclass(frozen=True)
class Stored:
    """images: uint8 [S, h, w, 3]. frames: their indices [S]. truth: the ground truth, if there is one. candidates:
    in order."""

    images: Array
    frames: Array
    truth: View | None
    candidates: tuple[View, ...]


def read_stored(path: Path, candidates: int) -> Stored | None:
    """Read a file; None when it is not there. QvggtError when it is damaged, or of other candidates."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise QvggtError(f"{path}: {size:,} bytes unpacked, expected at most {LARGEST:,}; run qvggt eval again")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise QvggtError(f"{path}: cannot be read ({reason}); expected a .npz of qvggt eval --store") from error
    images = _array(path, arrays, "images", "u", (None, None, None, 3))
    count, height, width = images.shape[:3]
    if not count or not height or not width:
        raise QvggtError(f"{path}: images: expected at least one pixel, got {images.shape}; run qvggt eval again")
    if f"c{candidates}_extrinsics" in arrays or f"c{candidates - 1}_extrinsics" not in arrays:
        raise QvggtError(f"{path}: is not of {candidates} candidates as the report; give the files of one run")
    maps = (count, height, width)
    return Stored(
        images,
        _array(path, arrays, "frames", "iu", (count,)),
        _view(path, arrays, "gt", maps) if "gt_extrinsics" in arrays else None,
        tuple(_view(path, arrays, f"c{index}", maps) for index in range(candidates)),
    )


def _view(path: Path, arrays: Mapping[str, Array], name: str, maps: tuple[int, int, int]) -> View:
    count = maps[0]
    scale = 1.0
    if name != "gt":
        scale = float(_array(path, arrays, f"{name}_scale", "f", ()))
        scale = scale if np.isfinite(scale) else 1.0
    extrinsics = _array(path, arrays, f"{name}_extrinsics", "f", (count, 3, 4)).astype(np.float64)
    extrinsics[:, :, 3] *= scale
    depth = points = colors = None
    if f"{name}_depth" in arrays:
        depth = scale * _array(path, arrays, f"{name}_depth", "f", maps)
    if f"{name}_points" in arrays:
        points = scale * _array(path, arrays, f"{name}_points", "f", (None, 3))
        colors = _array(path, arrays, f"{name}_colors", "u", (len(points), 3))
    return View(extrinsics, _array(path, arrays, f"{name}_intrinsics", "f", (count, 3, 3)), depth, points, colors)


def _array(path: Path, arrays: Mapping[str, Array], name: str, kinds: str, shape: tuple[int | None, ...]) -> Array:
    array = arrays.get(name)
    if array is not None and array.dtype.kind in kinds and array.ndim == len(shape):
        array_fits = all(wanted in (None, got) for wanted, got in zip(shape, array.shape, strict=True))
        if array_fits:
            return array
    got = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
    wanted = ", ".join("any" if n is None else str(n) for n in shape)
    raise QvggtError(f"{path}: {name}: expected [{wanted}], got {got}; run qvggt eval --store again")
