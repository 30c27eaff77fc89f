"""An image file -> RGB pixels, upright: orientation, files of several pictures, huge ones, HEIC.

Every photograph goes through `decode`, so that it is turned once, whoever reads it. Data sets with cameras read their
images as they are stored (`read_rgb`), since that is what their cameras are of.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from qvggt.errors import QvggtError
from qvggt.lazy import optional

if TYPE_CHECKING:
    from PIL import Image

ImageReader = Callable[["str | os.PathLike[str]"], "Image.Image"]
"""A file -> its PIL RGB image."""

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HEIF_ADVICE = "pip install pillow-heif, or convert to JPEG"
MAX_PIXELS = 300_000_000  # phones take 200 megapixels; 0.9 GB of RGB
MAX_ASPECT = 100  # beyond it no photograph, and crop mode would first blow the image up to gigabytes

# EXIF tag 274 -> the PIL transposition that makes the picture upright
ORIENTATION = 274
_TURNS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
LAST_UNTURNED = 4  # of these values: the others exchange width and height
UPRIGHT = dict(enumerate(_TURNS.split(), start=2))

FILE_TYPE, REDUCED_OR_MASK = 254, 0b101  # TIFF's NewSubfileType, and its bits for what is no picture of its own
FIRST_ONLY = ("MPO", "HEIF")  # of phones and stereo cameras: previews, depth and gain maps follow the photograph
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """A PIL RGB image without metadata. orientation: EXIF's of the file, 1 where it states none that is known; format:
    Pillow's name, which a file's suffix need not agree with."""

    image: Image.Image
    orientation: int
    format: str


def read_rgb(path: str | os.PathLike[str]) -> Image.Image:
    """The first picture of a file as it is stored, RGB. Transparent pixels are composited on white. Raises QvggtError
    naming the file. (Pillow itself turns a TIFF file by its orientation.)"""
    return next(decode(path, upright=False)).image


def read_upright(path: str | os.PathLike[str]) -> Image.Image:
    """`read_rgb`, turned as its EXIF or TIFF orientation asks."""
    return next(decode(path)).image


def decode(path: str | os.PathLike[str], pages: Sequence[int] | None = None, upright: bool = True) -> Iterator[Decoded]:
    """These pages of a file, ascending; the one it opens with by default. QvggtError names the file and the remedy."""
    name = os.fspath(path)
    with _named(path), _opened(path) as file:
        for page in pages or (file.tell(),):
            if page != file.tell():
                file.seek(page)
            # Pillow turns a TIFF as it loads it; of other formats, asking first could hide a damaged file
            turned = _orientation(file) if file.format == "TIFF" else 1
            file.load()
            _check(name, file)
            # a second copy of a large photograph is spared; other plugins still need their open file
            rgb = file if (file.format, file.mode) == ("JPEG", "RGB") else to_rgb(file)
            left = _orientation(file)
            if upright and left != 1:
                rgb = rgb.transpose(_transposition(left))
            rgb.info.clear()  # nobody is to turn it again
            yield Decoded(rgb, left if turned == 1 else turned, str(file.format))


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever a damaged image raises becomes a QvggtError that names the file and the remedy."""
    name = os.fspath(path)
    try:
        yield
    except QvggtError:
        raise
    except FileNotFoundError:
        raise QvggtError(f"{name}: no such image file") from None
    # A damaged file can make a decoder raise almost anything (OSError, SyntaxError, ValueError, struct.error, ...).
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if Path(path).suffix.lower() == ".avif":
            reason = f"{reason}; convert it to JPEG, or update Pillow (11.3 reads AVIF)"
        raise QvggtError(f"{name}: expected a readable image, got: {reason}") from error


def image_size(path: str | os.PathLike[str], upright: bool = True) -> tuple[int, int]:
    """(width, height) of the first picture of a file, from its header; QvggtError names a file that cannot be read."""
    with _named(path), _opened(path) as file:
        if file.format == "TIFF":  # which Pillow turns, when it opens it or when it loads it
            file.load()
        width, height = file.size
        return (height, width) if upright and _orientation(file) > LAST_UNTURNED else (width, height)


def pages_of(path: str | os.PathLike[str]) -> tuple[tuple[int, ...], int]:
    """Pages of a file that are pictures of their own (frames of an animation, pages of a TIFF), and how many others it
    has (previews, depth and gain maps). An unreadable file has one: whoever reads it says what is wrong."""
    try:
        with _opened(path) as file:
            count = int(getattr(file, "n_frames", 1))
            pages = tuple(range(count))
            if file.format in FIRST_ONLY or count == 1:
                pages = (file.tell(),)
            elif file.format == "TIFF":
                pages = tuple(page for page in pages if _is_whole(file, page)) or (0,)
            return pages, count - len(pages)
    except Exception:
        return (0,), 0


def heif_is_readable() -> bool:
    """Whether pillow-heif is installed; asks without importing anything."""
    return find_spec("pillow_heif") is not None


def to_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any 8-bit mode -> RGB; RGBA is composited on white, other transparency is dropped."""
    from PIL import Image

    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The file, its header read and its size checked; HEIF where it can be."""
    from PIL import Image

    name = os.fspath(path)
    with open(path, "rb") as stream:
        head = stream.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        if not heif_is_readable():
            raise QvggtError(f"{name}: is a HEIC (HEIF) image, which Pillow cannot read by itself; {HEIF_ADVICE}")
        optional("pillow_heif", f"{name}: is a HEIC (HEIF) image; {HEIF_ADVICE}").register_heif_opener()
    with _LOCK:  # Pillow's limit is the process's: it warns at 89 megapixels and refuses 179
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            file = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with file:
        if (pixels := file.width * file.height) > MAX_PIXELS:
            raise QvggtError(
                f"{name}: has {pixels / 1e6:.0f} megapixels, expected at most {MAX_PIXELS / 1e6:.0f}; reduce it first, "
                "for instance to 4000 pixels across: the network sees a few hundred"
            )
        yield file


def _check(name: str, image: Image.Image) -> None:
    if image.mode.startswith(("I", "F")):
        raise QvggtError(f"{name}: expected an 8-bit image, got pixel mode {image.mode}; convert it to 8 bits first")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise QvggtError(f"{name}: expected an aspect ratio up to {MAX_ASPECT}:1, got {image.width}x{image.height}")


def _orientation(image: Image.Image) -> int:
    """1..8; 1 (upright) where it says nothing, or nothing that the standard knows."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # a damaged EXIF block, which any exception can come from, states no orientation
        return 1
    return value if value in UPRIGHT else 1


def _transposition(orientation: int) -> Image.Transpose:
    from PIL.Image import Transpose

    return Transpose[UPRIGHT[orientation]]


def _is_whole(file: Image.Image, page: int) -> bool:
    """Whether a TIFF page is neither a reduced copy nor a mask of another one."""
    file.seek(page)
    return not int(file.tag_v2.get(FILE_TYPE, 0)) & REDUCED_OR_MASK  # type: ignore[attr-defined]
