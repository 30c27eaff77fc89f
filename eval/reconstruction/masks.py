"""Pixels to leave out: black or white backgrounds, sky by a simple rule, and the user's own mask files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.images import Resize
from qvggt.data.photos import Photo
from qvggt.errors import QvggtError
from qvggt.eval.ground_truth import resize_depth

Array = NDArray[Any]

BLACK, WHITE = 16, 240  # all channels below, all channels above
SKY_BRIGHTNESS = 100  # of the brightest channel; darker pixels are no daylight sky
SKY_GRADIENT = 8.0  # largest smoothed brightness step between neighbours inside a sky, of 255
SKY_AREA = 0.01  # of the image; smaller regions are kept


def keep(image: Array, names: Sequence[str]) -> Array:
    """uint8 RGB [H, W, 3] -> bool [H, W], true where a pixel passes every named mask."""
    kept = np.ones(image.shape[:2], bool)
    for name in names:
        if name not in MASKS:
            raise QvggtError(f"mask: expected one of {', '.join(MASKS)}, got {name!r}")
        kept &= ~MASKS[name](image)
    return kept


def sky(image: Array) -> Array:
    """uint8 RGB [H, W, 3] of an upright photograph -> bool [H, W]: smooth, bright, blue or colourless regions that
    reach the upper edge.

    A rule of thumb, not a segmentation: it takes a bright wall or ceiling at the upper edge for sky, and misses a
    night sky, a sunset, clouds with hard edges and sky seen through leaves. Mask files are the way to be exact.
    """
    from scipy import ndimage

    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    brightest = np.maximum(np.maximum(red, green), blue)
    colourless = brightest - np.minimum(np.minimum(red, green), blue) < 25
    blueish = (blue >= brightest - 2) & (blue > red + 8)
    smoothed = ndimage.gaussian_filter((red + green + blue) / 3, 1.0)
    step = np.hypot(ndimage.sobel(smoothed, axis=0), ndimage.sobel(smoothed, axis=1)) / 8
    candidate = (brightest > SKY_BRIGHTNESS) & (blueish | (colourless & (brightest > 160))) & (step < SKY_GRADIENT)
    labels, count = ndimage.label(candidate)
    if count == 0:
        return np.zeros(image.shape[:2], bool)
    sizes = np.bincount(labels.reshape(-1))
    sky = [label for label in np.unique(labels[0]) if label and sizes[label] >= SKY_AREA * candidate.size]
    # a pixel more: the rim mixes sky and object, and its depth is of neither
    return np.asarray(ndimage.binary_dilation(np.isin(labels, sky)))


MASKS: dict[str, Callable[[Array], Any]] = {
    "black": lambda image: (image < BLACK).all(-1),
    "white": lambda image: (image > WHITE).all(-1),
    "sky": sky,
}


def read_masks(
    folder: Path, photos: Sequence[Photo], resizes: Sequence[Resize], size: tuple[int, int]
) -> tuple[Array, tuple[str, ...]]:
    """The user's mask files -> bool [F, H, W] on network pixels, true: keep; and the sources of images without one.

    Black (0) leaves a pixel out. Any resolution, taken to cover the upright image; see `find_masks`. QvggtError when no
    image has one or one cannot be read.
    """
    height, width = size
    kept = np.ones((len(photos), height, width), bool)
    found = find_masks(folder, photos)
    for slot, path, resize in zip(kept, found, resizes, strict=True):
        if path is not None:
            slot[:] = resize_depth(_grey(path), resize, height, width) > 0
    without = tuple(photo.source for photo, path in zip(photos, found, strict=True) if path is None)
    if len(without) == len(photos):
        name = Path(photos[0].source).name if photos[0].time is None else photos[0].name
        raise QvggtError(f"{folder}: holds no mask for {photos[0].name} or the others; expected {name}.png")
    return kept, without


def find_masks(folder: Path, photos: Sequence[Photo]) -> list[Path | None]:
    """For the image NAME.jpg the file NAME.jpg.png (COLMAP's way) or NAME.png in `folder`.

    NAME is that of the file in images/, or the one the user gave: FOLDER/NAME.jpg, or NAME.jpg where no other input is
    called that. Frames of a video or animation have the first only: one mask cannot be meant for all of them.
    """
    alone = Counter(Path(photo.source).stem.lower() for photo in photos)
    found = list[Path | None]()
    for photo in photos:
        source, names = Path(photo.source), [photo.name]
        if photo.time is None and photo.page is None:
            names.append(f"{source.resolve().parent.name}/{source.name}")
            names += [source.name] if alone[source.stem.lower()] == 1 else []
        files = (folder / f"{stem}.png" for name in names for stem in (name, Path(name).with_suffix("")))
        found.append(next((path for path in files if path.is_file()), None))
    return found


def _grey(path: Path) -> NDArray[np.float32]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"), np.float32)
    except Exception as error:  # a damaged file can make a decoder raise almost anything
        raise QvggtError(f"{path}: expected a readable mask image, got: {' '.join(str(error).split())}") from error
