"""What the user named (files, folders) -> upright image files with unique, safe names."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from qvggt.data.image_file import HEIF_ADVICE, HEIF_SUFFIXES, Decoded, decode, heif_is_readable, pages_of
from qvggt.errors import QvggtError
from qvggt.progress import bar

LOSSY = (".jpg", ".jpeg")
IMAGE_SUFFIXES = (*LOSSY, ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".apng", ".mpo", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw")
COMPRESSED = ("HEIF", "AVIF")  # formats that COLMAP and its like do not open: stored again as JPEG
QUALITY = 95  # of the JPEG files written here; without chroma subsampling
SHOWN = 8  # suffixes in a line about what is left out

Say = Callable[[str], None]


@dataclass(frozen=True)
class Photo:
    """An upright image file. width, height: its pixels. source: the file it came from; orientation: the EXIF value
    that was undone (1: none). time: seconds into the video, None for a still image. page: of a source with several
    pictures, None where it is the only one."""

    name: str
    path: Path
    width: int
    height: int
    source: str
    orientation: int = 1
    time: float | None = None
    page: int | None = None


@dataclass(frozen=True)
class Picture:
    """A picture to read: an image file, or one page of it."""

    path: Path
    page: int | None = None

    @property
    def name(self) -> str:
        """A file name: the file's own, or STEM_0001.png for its first page."""
        return self.path.name if self.page is None else f"{self.path.stem}_{self.page + 1:04d}.png"


def silent(line: str) -> None:
    """What listens to nothing."""


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def image_suffixes() -> tuple[str, ...]:
    """Of the image files of a folder that can be read here."""
    return IMAGE_SUFFIXES + (HEIF_SUFFIXES if heif_is_readable() else ())


def left_out(others: Iterable[Path], folders: int = 0) -> str:
    """What the files of a folder are that are not read, by suffix and count, and why; and folders that are not
    searched. "" for none."""
    counts = Counter(path.suffix.lower() or "without a suffix" for path in others)
    parts = [f"{count} {suffix}{_why(suffix)}" for suffix, count in counts.most_common(SHOWN)]
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(SHOWN))
    counted = {"of other kinds": rest, "folders (not searched)": folders}
    return ", ".join([*parts, *(f"{count} {what}" for what, count in counted.items() if count)])


def _why(suffix: str) -> str:
    if suffix in HEIF_SUFFIXES:
        return f" (HEIC: {HEIF_ADVICE})"
    if suffix in VIDEO_SUFFIXES:
        return " (a video has to be the only input)"
    return " (raw: convert to JPEG)" if suffix in RAW_SUFFIXES else ""


def find_files(inputs: Sequence[Path], say: Say = silent) -> list[Path]:
    """The image files among `inputs`: files as given, folders by name (2 before 10), not recursive; opens none.

    say: hears what a folder holds besides. QvggtError for what does not exist, a folder without images, a video (which
    is an input of its own) and a HEIC file that cannot be read here.
    """
    images: list[Path] = []
    suffixes = image_suffixes()
    for path in inputs:
        if path.is_dir():
            there = [p for p in path.iterdir() if not p.name.startswith(".")]
            inside = [p for p in there if p.is_file() and p.suffix.lower() in suffixes]
            folders = [p for p in there if p.is_dir()]
            rest = left_out(set(there).difference(inside, folders), len(folders))
            if not inside:
                also = f", but {rest}" if rest else ""
                raise QvggtError(f"{path}: holds no image ({' '.join(suffixes)}){also}; name a folder that does")
            if rest:
                say(f"note: {path}: {len(inside)} images; left out: {rest}")
            images += sorted(inside, key=natural)
        elif is_video(path):
            raise QvggtError(f"{path}: is a video, which must be the only input; run it alone, or extract its frames")
        elif path.suffix.lower() in HEIF_SUFFIXES and path.exists() and not heif_is_readable():
            raise QvggtError(f"{path}: is a HEIC (HEIF) image, which Pillow cannot read by itself; {HEIF_ADVICE}")
        elif path.exists():
            images.append(path)
        else:
            raise QvggtError(f"{path}: no such file or folder; expected images, a folder of images or a video")
    return images


def find_images(inputs: Sequence[Path], every: int = 1, limit: int | None = None, say: Say = silent) -> list[Picture]:
    """The pictures of `find_files`: every frame of an animation and page of a TIFF is one.

    every: keep one in so many. limit: keep the first so many. say: hears of files with several pictures, too.
    """
    pictures, further = list[Picture](), 0
    for path in find_files(inputs, say):
        pages, others = pages_of(path)
        further += others > 0
        if len(pages) > 1:
            say(f"note: {path}: holds {len(pages)} pictures (frames or pages); each is used")
        pictures += [Picture(path, page) for page in pages] if len(pages) > 1 else [Picture(path)]
    if further:
        say(f"note: {further} files hold previews, depth or gain maps beside the photograph, which are not used")
    return pictures[::every][:limit]


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key in which numbers count as numbers: img2 before img10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", path.name)]


def stage_images(pictures: Sequence[Picture], folder: Path) -> list[Photo]:
    """Copy pictures into `folder`, upright. A file that is one upright picture in a format every program opens is
    copied byte by byte; any other picture is stored again (JPEG at quality 95, or PNG), without EXIF. QvggtError names
    an unreadable file."""
    names = unique_names([Path(picture.name) for picture in pictures])
    staged = zip(bar(pictures, desc="read images", unit="image"), names, _decoded(pictures), strict=True)
    return [_store(picture, folder / name, decoded) for picture, name, decoded in staged]


def _decoded(pictures: Sequence[Picture]) -> Iterator[Decoded]:
    """Each picture; files are opened once for all of their pages that follow each other."""
    for path, group in groupby(pictures, key=lambda picture: picture.path):
        alone = [picture.page for picture in group]
        pages = [page for page in alone if page is not None]
        if pages:
            yield from decode(path, pages)
        else:
            for _ in alone:  # a file that was named twice
                yield from decode(path)


def _store(picture: Picture, target: Path, decoded: Decoded) -> Photo:
    if picture.page is None and decoded.orientation == 1 and decoded.format not in COMPRESSED:
        shutil.copyfile(picture.path, target)
    else:
        if target.suffix.lower() not in LOSSY:
            target = target.with_suffix(".jpg" if decoded.format in COMPRESSED else ".png")
        save_image(decoded.image, target)
    size, source = decoded.image.size, str(picture.path)
    return Photo(target.name, target, *size, source, decoded.orientation, page=picture.page)


def save_image(image: object, path: Path) -> None:
    """A PIL RGB image to JPEG (by its suffix) or PNG."""
    jpeg = {"format": "JPEG", "quality": QUALITY, "subsampling": 0}
    options = jpeg if path.suffix.lower() in LOSSY else {"format": "PNG"}
    image.save(path, **options)  # type: ignore[attr-defined]


def unique_names(paths: Sequence[Path]) -> list[str]:
    """File names without spaces or separators, which COLMAP's text files could not hold; numbered where two agree."""
    clean = [re.sub(r"[^\w.-]+", "_", path.name) for path in paths]
    # turned files change their suffix, and some file systems do not tell case apart
    stems = [Path(name).stem.lower() for name in clean]
    if len(set(stems)) == len(stems):
        return clean
    digits = max(4, len(str(len(clean))))
    return [f"{index:0{digits}d}_{name}" for index, name in enumerate(clean, start=1)]
