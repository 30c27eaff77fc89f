"""What the user named (files, folders) -> upright image files with unique, safe names."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qvggt.errors import QvggtError
from qvggt.progress import bar

if TYPE_CHECKING:
    from PIL import Image

LOSSY = (".jpg", ".jpeg")
IMAGE_SUFFIXES = (*LOSSY, ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
QUALITY = 95  # of the JPEG files written here; without chroma subsampling

# EXIF tag 274 -> the PIL transposition that makes the picture upright
_TURNS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
UPRIGHT = dict(enumerate(_TURNS.split(), start=2))
ORIENTATION = 274


@dataclass(frozen=True)
class Photo:
    """An upright image file. width, height: its pixels. source: the file it came from; orientation: the EXIF value
    that was undone (1: none). time: seconds into the video, None for a still image."""

    name: str
    path: Path
    width: int
    height: int
    source: str
    orientation: int = 1
    time: float | None = None


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_images(inputs: Sequence[Path], every: int = 1, limit: int | None = None) -> list[Path]:
    """The image files among `inputs`: files as given, folders by name (2 before 10), not recursive.

    every: keep one in so many. limit: keep the first so many. QvggtError for what does not exist, a folder without
    images and a video (which is an input of its own).
    """
    images: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
            if not inside:
                raise QvggtError(f"{path}: holds no image ({' '.join(IMAGE_SUFFIXES)}); name a folder that does")
            images += sorted(inside, key=natural)
        elif is_video(path):
            raise QvggtError(f"{path}: is a video, which must be the only input; run it alone, or extract its frames")
        elif path.exists():
            images.append(path)
        else:
            raise QvggtError(f"{path}: no such file or folder; expected images, a folder of images or a video")
    return images[::every][:limit]


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key in which numbers count as numbers: img2 before img10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", path.name)]


def stage_images(paths: Sequence[Path], folder: Path) -> list[Photo]:
    """Copy images into `folder`, upright. A file whose EXIF asks for no turn is copied byte by byte; any other one is
    turned and stored again (JPEG at quality 95, or PNG), without EXIF. QvggtError names an unreadable file."""
    from qvggt.data.images import read_rgb  # with torch, which finding images does without

    photos = []
    for path, name in zip(bar(paths, desc="read images", unit="image"), unique_names(paths), strict=True):
        image, orientation = read_rgb(path), exif_orientation(path)
        target = folder / name
        if orientation == 1:
            shutil.copyfile(path, target)
        else:
            image = _turned(image, orientation)
            target = target if path.suffix.lower() in LOSSY else target.with_suffix(".png")
            save_image(image, target)
        photos.append(Photo(target.name, target, *image.size, str(path), orientation))
    return photos


def read_upright(path: str | os.PathLike[str]) -> Image.Image:
    """`read_rgb`, turned as its EXIF asks."""
    from qvggt.data.images import read_rgb

    return _turned(read_rgb(path), exif_orientation(Path(path)))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    from PIL.Image import Transpose

    image = image.transpose(Transpose[UPRIGHT[orientation]])
    image.info.clear()  # the turn is done: its EXIF must not ask for it again
    return image


def save_image(image: object, path: Path) -> None:
    """A PIL RGB image to JPEG (by its suffix) or PNG."""
    jpeg = {"format": "JPEG", "quality": QUALITY, "subsampling": 0}
    options = jpeg if path.suffix.lower() in LOSSY else {"format": "PNG"}
    image.save(path, **options)  # type: ignore[attr-defined]


def exif_orientation(path: Path) -> int:
    """1..8; 1 (upright) where EXIF says nothing, or nothing that the standard knows."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            value = image.getexif().get(ORIENTATION)
    except Exception:  # a damaged EXIF block, which any exception can come from, states no orientation
        return 1
    return value if value in UPRIGHT else 1


def unique_names(paths: Sequence[Path]) -> list[str]:
    """File names without spaces or separators, which COLMAP's text files could not hold; numbered where two agree."""
    clean = [re.sub(r"[^\w.-]+", "_", path.name) for path in paths]
    # turned files change their suffix, and some file systems do not tell case apart
    stems = [Path(name).stem.lower() for name in clean]
    if len(set(stems)) == len(stems):
        return clean
    digits = max(4, len(str(len(clean))))
    return [f"{index:0{digits}d}_{name}" for index, name in enumerate(clean, start=1)]
