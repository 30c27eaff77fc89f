"""COLMAP's text files: cameras.txt and images.txt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.files import line, reason

Array = NDArray[Any]
T = TypeVar("T")

COUNTS = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "THIN_PRISM_FISHEYE": 12}
"""Camera models that are understood, and how many numbers they have."""


@dataclass(frozen=True)
class Camera:
    """Pixels count from the upper left corner: the centre of the first is (0.5, 0.5)."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    @property
    def focal_centre(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy."""
        first = self.params[0]
        return (first, first, *self.params[1:3]) if self.model == "SIMPLE_PINHOLE" else self.params[:4]  # type: ignore[return-value]

    def project(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Directions (u, v, 1) -> pixels (x, y)."""
        fx, fy, cx, cy = self.focal_centre
        if self.model == "THIN_PRISM_FISHEYE":
            k1, k2, p1, p2, k3, k4, s1, s2 = self.params[4:]
            radius = np.hypot(u, v)
            turned = np.where(radius > 1e-12, np.arctan(radius) / np.maximum(radius, 1e-12), 1.0)
            u, v = u * turned, v * turned
            r2 = u * u + v * v
            radial = r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
            shift_u = u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u) + s1 * r2
            shift_v = v * radial + 2 * p2 * u * v + p1 * (r2 + 2 * v * v) + s2 * r2
            u, v = u + shift_u, v + shift_v
        return fx * u + cx, fy * v + cy


@dataclass(frozen=True)
class Posed:
    """An image of images.txt. extrinsics [3, 4]: camera-from-world."""

    name: str
    camera: int
    extrinsics: NDArray[np.float64]


def read_cameras(path: Path) -> dict[int, Camera]:
    """By id. QvggtError for another file, or a model that is not understood."""

    def camera(words: list[str]) -> tuple[int, Camera]:
        model, params = words[1], tuple(map(float, words[4:]))
        if COUNTS.get(model) != len(params):
            raise ValueError(f"{model} with {len(params)} numbers; understood are {', '.join(COUNTS)}")
        return int(words[0]), Camera(model, int(words[2]), int(words[3]), params)

    return dict(_parsed(path, camera, [words for words in _lines(path) if words]))


def read_images(path: Path) -> list[Posed]:
    """By name. QvggtError for another file."""
    from scipy.spatial.transform import Rotation

    def image(words: list[str]) -> Posed:
        numbers = [float(word) for word in words[1:8]]
        rotation = Rotation.from_quat([*numbers[1:4], numbers[0]]).as_matrix()
        extrinsics = np.concatenate([rotation, np.array(numbers[4:])[:, None]], 1)
        return Posed(" ".join(words[9:]), int(words[8]), extrinsics)

    # two lines an image, the second, of its points, empty where it has none
    return sorted(_parsed(path, image, _lines(path)[::2]), key=lambda posed: posed.name)


def _lines(path: Path) -> list[list[str]]:
    """The words of each line but the comments, without empty lines at the end."""
    try:
        text = path.read_text(encoding="utf-8").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "no text"
        raise QvggtError(f"{path}: cannot be read ({why}); restore the file") from error
    return [words.split() for words in text.splitlines() if not words.startswith("#")]


def _parsed(path: Path, read: Callable[[list[str]], T], lines: list[list[str]]) -> list[T]:
    try:
        return [read(words) for words in lines]
    except (ValueError, IndexError) as error:
        raise QvggtError(f"{path}: expected COLMAP's text format, got {line(error)}; restore the file") from error
