"""Photographs that packages bring: fetched by their ordinary clients, checked by SHA-256, never committed.

    python tools/photos.py      # 200 MB through apt-get and pip, 18 MB kept in outputs/photos; installs nothing

Debian's opencv-doc (its samples: Apache-2.0 and BSD-3-Clause) and visp-images-data (GPL-2, Inria), scikit-image 0.16.2
from PyPI (BSD-3-Clause; the motorcycle comes from the Middlebury 2014 stereo benchmark). No sequence has cameras with
it: opencv-doc has the intrinsics of its chessboards alone, and the sequence of visp-images-data that has poses is
rendered. Known are those of rectified pairs: side by side, turned alike.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from reporting import start
from torch import Tensor

from qvggt.data.images import load_images_exact
from qvggt.errors import QvggtError

FOLDER = Path("outputs/photos")
OPENCV, VISP, SKIMAGE = "opencv-doc", "visp-images-data", "scikit-image==0.16.2"
WHEEL = ("--no-deps", "--only-binary=:all:", "--python-version=3.8", "--platform=manylinux1_x86_64")


@dataclass(frozen=True)
class Collection:
    """Sequences of one kind. paths: of each sequence's images, in the package's folder `root`; sha256: of the bytes of
    all of them, in this order; rectified: sequences whose two cameras look the same way from places side by side."""

    name: str
    package: str
    root: str
    paths: tuple[tuple[str, ...], ...]
    sha256: str
    rectified: tuple[int, ...] = ()

    def files(self, folder: Path) -> list[list[Path]]:
        """Where the images are once fetched."""
        return [[folder / self.name / path.replace("/", "_") for path in sequence] for sequence in self.paths]

    def sequences(self, size: int, folder: Path = FOLDER) -> list[Tensor]:
        """Images [S, 3, size, size] in [0, 1]: scaled, the middle cut out. QvggtError when they are not there."""
        self.check(folder)
        return [load_images_exact(sequence, size, size)[0] for sequence in self.files(folder)]

    def check(self, folder: Path) -> None:
        """QvggtError unless all files are there and are those."""
        digest = hashlib.sha256()
        for path in (path for sequence in self.files(folder) for path in sequence):
            if not path.is_file():
                raise QvggtError(f"{path}: is not there; run python tools/photos.py")
            digest.update(path.read_bytes())
        if digest.hexdigest() != self.sha256:
            raise QvggtError(
                f"{folder / self.name}: other images than expected (SHA-256 {digest.hexdigest()[:16]}, expected "
                f"{self.sha256[:16]}); delete the folder and run python tools/photos.py, or another version is served"
            )


def clips(name: str, first: range, stride: int) -> tuple[tuple[str, ...], ...]:
    """Four frames of a video each, `stride` apart, from each first frame."""
    return tuple(tuple(name.format(start + stride * i) for i in range(4)) for start in first)


CHESSBOARDS = tuple((f"left{i:02}.jpg", f"right{i:02}.jpg") for i in (*range(1, 10), *range(11, 15)))
SAMPLES, VIDEOS = "usr/share/doc/opencv-doc/examples/data", "usr/share/visp-images-data/ViSP-images"
PAIRS = (
    ("aloeL.jpg", "aloeR.jpg"),
    ("leuvenA.jpg", "leuvenB.jpg"),
    ("graf1.png", "graf3.png"),
    ("left.jpg", "right.jpg"),
)
MOTORCYCLE = (("motorcycle_left.png", "motorcycle_right.png"),)
COLLECTIONS = (
    Collection(
        "chessboards", OPENCV, SAMPLES, CHESSBOARDS, "d48d853453fccf69fe29ffff2664064199dbc585297c7f41a9d1bf519ffdc0ad"
    ),
    Collection(
        "pairs", OPENCV, SAMPLES, PAIRS, "013dbb5a5931c34542626e5c3bac1db59c25c374ced19e77f1bb31c27f164061", (0,)
    ),
    Collection(
        "motorcycle",
        SKIMAGE,
        "skimage/data",
        MOTORCYCLE,
        "b5e734c5a0ae833f32460b08768751a4e408bc0dff3f5ddbb2f80b704de93409",
        (0,),
    ),
    Collection(
        "cube",
        VISP,
        VIDEOS,
        clips("cube/image.{:04}.pgm", range(0, 56, 14), 8),
        "718a45c5f103c6c5d8af98aa7f857471a02369a5aeeb7dac761b7a2dcad08b58",
    ),
    Collection(
        "table",
        VISP,
        VIDEOS,
        clips("mbt/cube/image{:04}.pgm", range(0, 156, 50), 20),
        "da73117af406a7b7fb3fb5c14b80ddef62ad48ce1ed59f9b783581b4134aa39b",
    ),
    Collection(
        "castle",
        VISP,
        VIDEOS,
        clips("mbt-depth/castel/castel/image_{:04}.pgm", range(0, 9, 4), 7),
        "ab3b1320ec68ae716322b6689dc1b410d6689b420b4da66641fd7a043c3a5c8a",
    ),
    Collection(
        "target",
        VISP,
        VIDEOS,
        clips("mire-2/image.{:04}.pgm", range(1, 402, 100), 25),
        "2e9ed74698a08101bc80f97e753eb4613d1bec0cbe2ffc74af204d3ac8fcaaf2",
    ),
)


def unpacked(package: str, folder: Path) -> None:
    """A package's files, laid into `folder`; nothing is installed. QvggtError with its client's last words."""
    run = partial(subprocess.run, cwd=folder, check=True, capture_output=True, text=True)
    pip = (sys.executable, "-m", "pip", "download", "-q", *WHEEL, package)
    try:
        run(pip if "==" in package else ("apt-get", "download", package))
        for archive in folder.glob("*.deb"):
            run(("dpkg", "-x", archive.name, "."))
        for archive in folder.glob("*.whl"):
            shutil.unpack_archive(archive, folder, "zip")
    except FileNotFoundError as error:
        raise QvggtError(
            f"{package}: {error.filename} is not there; it takes Debian's apt-get and dpkg, and pip"
        ) from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines() or ["no message"]
        raise QvggtError(f"{package}: {error.cmd[0]} ended with {error.returncode}: {said[-1]}") from error


def fetch(collections: tuple[Collection, ...], folder: Path) -> None:
    """Bring what is missing into `folder`, and check all of it."""
    for package in dict.fromkeys(c.package for c in collections):
        missing = [c for c in collections if c.package == package and not (folder / c.name).is_dir()]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as place:
            unpacked(package, Path(place))
            for collection in missing:
                with tempfile.TemporaryDirectory(dir=folder) as half:
                    for names, files in zip(collection.paths, collection.files(Path(half)), strict=True):
                        for name, file in zip(names, files, strict=True):
                            file.parent.mkdir(exist_ok=True)
                            shutil.copyfile(Path(place, collection.root, name), file)
                    collection.check(Path(half))
                    Path(half, collection.name).rename(folder / collection.name)
    for collection in collections:
        collection.check(folder)


def beside() -> Tensor:
    """Cameras of a rectified pair, [2, 3, 4] camera-from-world: the right one stands to the right of the left one."""
    cameras = torch.eye(3, 4, dtype=torch.float64).repeat(2, 1, 1)
    cameras[1, 0, 3] = -1
    return cameras


def main(folder: Annotated[Path, typer.Option(help="Where they go.")] = FOLDER) -> None:
    """Fetch the photographs and check them."""
    folder.mkdir(parents=True, exist_ok=True)
    fetch(COLLECTIONS, folder)
    print(f"{sum(len(c.paths) for c in COLLECTIONS)} sequences in {folder}")


if __name__ == "__main__":
    start(main)
