"""Image files -> network input: float32 RGB in [0, 1], sides a multiple of the patch size (spec vggt.md 1.10).

Two ways in. `load_images` prepares a set of images as VGGT does: one side is fixed, the other follows from the images.
`load_images_exact` fills a given height and width, which an exported ONNX graph has fixed, by cropping or by padding.

Photographs are turned upright as their EXIF orientation asks, which the reference does not do. Like there, of the
transparent images only RGBA is composited on white (the alpha of palette and grey images is dropped).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvggt.data.image_file import ImageReader, read_upright
from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from PIL import Image

Mode = Literal["crop", "pad"]


@dataclass(frozen=True)
class Resize:
    """Where the pixels of a source image went: `x_out = scale_x * x + offset_x`, and likewise for y.

    Coordinates are continuous: pixel i covers [i, i + 1), so the centre of an image is W / 2, as in VGGT's intrinsics
    and in COLMAP. A crop makes the offset negative, padding makes it positive. Sizes are pixels. part: of the source
    image, (left, top, right, bottom), where less of it was shown than the output has room for; None: no less.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    source_width: int
    source_height: int
    part: tuple[float, float, float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) that the whole source image was scaled to."""
        return round(self.scale_x * self.source_width), round(self.scale_y * self.source_height)

    def moved(self, right: float, down: float) -> Resize:
        """The same, so many output pixels further."""
        return replace(self, offset_x=self.offset_x + right, offset_y=self.offset_y + down)

    def inside(self, height: int, width: int) -> NDArray[np.bool_]:
        """[height, width]: the output pixel's centre lies on the image, not on padding."""
        left, top, right, bottom = self.part or (0, 0, self.source_width, self.source_height)
        x, y = self.source_grid(height, width)
        return ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))[None]

    def matrix(self) -> NDArray[np.float64]:
        """`A` [3, 3] on homogeneous pixels: `K_out = A @ K_source`, and `inv(A) @ K_out` leads back to the source."""
        return np.array([[self.scale_x, 0, self.offset_x], [0, self.scale_y, self.offset_y], [0, 0, 1]], np.float64)

    def source_grid(self, height: int, width: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Where the centres of the pixels of [height, width] output lie in the source image: x [W], y [H]."""
        x = (np.arange(width) + 0.5 - self.offset_x) / self.scale_x
        y = (np.arange(height) + 0.5 - self.offset_y) / self.scale_y
        return x, y


def inside_of(resizes: Sequence[Resize], height: int, width: int) -> NDArray[np.bool_]:
    """[S, height, width]: pixels of the images of a list that are no padding, see `Resize.inside`."""
    return np.stack([resize.inside(height, width) for resize in resizes])


def load_images(
    paths: Sequence[str | os.PathLike[str]], mode: Mode = "crop", size: int = 518, patch: int = 14
) -> Tensor:
    """Read and preprocess images as VGGT does -> float32 `[S, 3, H, W]`, RGB in [0, 1].

    mode "crop": width `size`; the height follows the aspect ratio, rounded to whole patches, and is centre-cropped to
    `size` when it exceeds it. mode "pad": the longest side becomes `size`, then the image is centred on a white
    `size` x `size` square. Images of one list that end up with different heights are centred on white to the largest.

    Raises QvggtError on an empty list, an unreadable image, an unknown mode or a size that is no multiple of `patch`.
    """
    return load_images_tracked(paths, mode, size, patch)[0]


def load_images_tracked(
    paths: Sequence[str | os.PathLike[str]],
    mode: Mode = "crop",
    size: int = 518,
    patch: int = 14,
    read: ImageReader | None = None,
) -> tuple[Tensor, list[Resize]]:
    """`load_images` plus the `Resize` of each image, which leads intrinsics and pixels back to the source image; read:
    instead of `read_upright`."""
    _check_options(mode, size, patch)
    _check_paths(paths)
    return _centred(((read or read_upright)(path) for path in paths), mode, (size, size), patch)


def load_images_exact(
    paths: Sequence[str | os.PathLike[str]],
    height: int,
    width: int,
    patch: int = 14,
    read: ImageReader | None = None,
    mode: Mode = "crop",
) -> tuple[Tensor, list[Resize]]:
    """Read images into a fixed height and width -> float32 `[S, 3, height, width]` in [0, 1], and each `Resize`.

    mode "crop": scaled (bicubic, antialiased) by the smallest factor that covers the target, the same in x and y, and
    the excess is cropped on both sides equally. Centre and aspect ratio are exact: a crop may start between two pixels.
    mode "pad": one side fills the target, the other is rounded to whole patches, and the rest is white. In both, an
    image that `load_images` makes the target's size has the pixels it has there. read: instead of `read_upright`.

    Raises QvggtError on an empty list, an unreadable image or sides that are no multiples of `patch`.
    """
    from PIL.Image import Resampling

    _check_side("height", height, patch)
    _check_side("width", width, patch)
    _check_paths(paths)
    if mode == "pad":
        return _centred(((read or read_upright)(path) for path in paths), mode, (height, width), patch)
    batch = torch.empty(len(paths), 3, height, width, dtype=torch.uint8)
    resizes = []
    for slot, path in zip(batch, paths, strict=True):
        image = (read or read_upright)(path)
        source_w, source_h = image.size
        if scaled_size(image.size, mode, (height, width), patch) == (width, height):
            slot.copy_(_pixels(image.resize((width, height), Resampling.BICUBIC)))
            resizes.append(Resize(width / source_w, height / source_h, 0.0, 0.0, source_w, source_h))
            continue
        scale = max(width / source_w, height / source_h)
        # Rounding may put a covering side a hair outside the image, which Pillow refuses.
        used_w, used_h = min(width / scale, source_w), min(height / scale, source_h)
        left, top = (source_w - used_w) / 2, (source_h - used_h) / 2
        box = (left, top, left + used_w, top + used_h)
        slot.copy_(_pixels(image.resize((width, height), Resampling.BICUBIC, box=box)))
        resizes.append(Resize(scale, scale, -left * scale, -top * scale, source_w, source_h))
    return _unit_range(batch), resizes


def scaled_size(source: tuple[int, int], mode: Mode, size: tuple[int, int], patch: int = 14) -> tuple[int, int]:
    """(width, height) that an image of `source` (width, height) is scaled to, before any crop or padding to `size`
    (height, width): in "crop" as wide as that, in "pad" the largest that fits, sides rounded to whole patches."""
    (width, height), (target_h, target_w) = source, size
    # `round` is half-to-even, as in the reference; a very long image keeps at least one patch.
    if mode == "pad" and height * target_w > width * target_h:
        return max(1, round(width * target_h / height / patch)) * patch, target_h
    return target_w, max(1, round(height * target_w / width / patch)) * patch


def _centred(
    images: Iterable[Image.Image], mode: Mode, size: tuple[int, int], patch: int
) -> tuple[Tensor, list[Resize]]:
    """RGB images resized and centred on white canvases (what is larger is cropped) -> float batch and resizes.

    The canvas of all is of `size` (height, width) in pad mode, else as high as the tallest image, up to that.
    """
    from PIL.Image import Resampling

    def scale(image: Image.Image) -> Tensor:
        return _pixels(image.resize(scaled_size(image.size, mode, size, patch), Resampling.BICUBIC))

    sources, scaled = zip(*((image.size, scale(image)) for image in images), strict=True)
    tallest = max(pixels.shape[1] for pixels in scaled)
    height, width = (size[0] if mode == "pad" else min(size[0], tallest)), size[1]
    batch = torch.full((len(scaled), 3, height, width), 255, dtype=torch.uint8)
    resizes = []
    for canvas, pixels, (source_w, source_h) in zip(batch, scaled, sources, strict=True):
        h, w = pixels.shape[1:]
        (crop_y, pad_y), (crop_x, pad_x) = _centre(h, height), _centre(w, width)
        kept = pixels[:, crop_y : crop_y + height, crop_x : crop_x + width]
        canvas[:, pad_y : pad_y + kept.shape[1], pad_x : pad_x + kept.shape[2]] = kept
        shift_x, shift_y = float(pad_x - crop_x), float(pad_y - crop_y)
        resizes.append(Resize(w / source_w, h / source_h, shift_x, shift_y, source_w, source_h))
    return _unit_range(batch), resizes


def _centre(length: int, target: int) -> tuple[int, int]:
    """(pixels cropped, pixels padded) before the content of one axis; an odd remainder goes to the far side."""
    return max(0, length - target) // 2, max(0, target - length) // 2


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1)


def _unit_range(batch: Tensor) -> Tensor:
    return batch.float().div_(255)


def _check_options(mode: str, size: int, patch: int) -> None:
    if mode not in get_args(Mode):
        raise QvggtError(f"mode: expected one of {', '.join(get_args(Mode))}, got {mode!r}")
    _check_side("size", size, patch)


def _check_side(name: str, side: int, patch: int) -> None:
    if side <= 0 or side % patch:
        below = max(side // patch, 1) * patch
        raise QvggtError(f"{name}: expected a positive multiple of {patch}, got {side}; {below} would do")


def _check_paths(paths: Sequence[str | os.PathLike[str]]) -> None:
    if isinstance(paths, str | os.PathLike):
        raise TypeError(f"expected a list of image paths, got one path {paths!r}")
    if not paths:
        raise QvggtError("images: expected at least one image file, got an empty list")
