"""Images of a sequence as every candidate gets them, and its ground-truth depth on the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.image_file import ImageReader
from qvggt.data.images import Mode, Resize, load_images_exact, load_images_tracked
from qvggt.data.room_images import load_room_images
from qvggt.data.sequence import Frames
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.engines.runner import Runner
from qvggt.errors import QvggtError
from qvggt.models.family import find_family

DEFAULT_SIZE = find_family().assumed[1].img_size
PATCH = find_family().patch_size
ROOM_ASPECT = 3 / 4


@dataclass(frozen=True)
class ImagePlan:
    """How images become pixels: cropped to exactly `exact` (H, W), or in crop mode to the width `width`.

    room: to `exact` by the rules of 7-Scenes/NRGBD (`room_images`).
    """

    width: int
    exact: tuple[int, int] | None = None
    room: bool = False

    def load(
        self,
        paths: Sequence[Path],
        intrinsics: NDArray[np.float64] | None = None,
        fit: Mode = "crop",
        read: ImageReader | None = None,
    ) -> tuple[NDArray[np.float32], list[Resize]]:
        """Images float32 [S, 3, H, W] in [0, 1] and where their pixels came from; QvggtError for unreadable ones.

        intrinsics [S, 3, 3] of the stored images: needed by `room` alone. fit: mode where the height is free.
        read: of an image file, unless `room`.
        """
        if self.exact is None:
            images, resizes = load_images_tracked(paths, fit, self.width, read=read)
        elif self.room:
            assert intrinsics is not None
            return load_room_images(paths, intrinsics, *self.exact)
        else:
            images, resizes = load_images_exact(paths, *self.exact, read=read)
        return images.numpy(), resizes

    def load_frames(self, frames: Frames) -> tuple[NDArray[np.float32], list[Resize]]:
        """The images of a sequence, as `load` gives them."""
        intrinsics = frames.intrinsics if isinstance(frames, EvalSequence) else None
        return self.load(frames.image_paths, intrinsics, read=frames.image_reader)

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        if self.exact is not None:
            mode = "room" if self.room else "exact"
            return {"mode": mode, "height": self.exact[0], "width": self.exact[1]}
        return {"mode": "crop", "width": self.width}


def plan_images(runners: Sequence[Runner], size: int | None = None, room: bool = False) -> ImagePlan:
    """The one preprocessing all candidates share.

    A runner of fixed size decides for all; otherwise crop mode with width `size`, by default the first runner's native
    size, or 518. room: that width and three quarters of it, in whole patches (518 x 392), as the room protocols do.
    QvggtError when two runners are fixed at different sizes, or at another width than `size`, or for a size that is no
    multiple of the patch.
    """
    fixed = [(runner.label, runner.size) for runner in runners if runner.size is not None]
    for label, (height, width) in fixed:
        first, (first_height, first_width) = fixed[0]
        if (height, width) != (first_height, first_width):
            raise QvggtError(
                f"{label} takes only {height}x{width} images, {first} only {first_height}x{first_width}: "
                "no fair comparison; evaluate them apart"
            )
        if size is not None and width != size:
            raise QvggtError(f"size {size}: {label} takes only {height}x{width} images; leave the size out")
    if fixed:
        return ImagePlan(fixed[0][1][1], fixed[0][1], room)
    native = runners[0].native_size if runners else None
    width = size or native or DEFAULT_SIZE
    if not room:
        return ImagePlan(width)
    if width % PATCH:
        raise QvggtError(f"size: expected a multiple of {PATCH}, got {width}; {width // PATCH * PATCH} would do")
    return ImagePlan(width, (max(1, round(width * ROOM_ASPECT / PATCH)) * PATCH, width), room)


def sequence_depth(
    sequence: EvalSequence, resizes: Sequence[Resize], height: int, width: int
) -> NDArray[np.float32] | None:
    """Ground-truth depth [S, H, W] on the pixels of the network's images, 0 where unknown; None without any depth map.

    Nearest neighbour: depth is never averaged across an edge.
    """
    depth = np.zeros((len(sequence.depth_paths), height, width), np.float32)
    for slot, path, resize in zip(depth, sequence.depth_paths, resizes, strict=True):
        if path is not None:
            slot[:] = resize_depth(sequence.depth_reader(path), resize, height, width)
    return depth if (depth > 0).any() else None


def network_intrinsics(sequence: EvalSequence, resizes: Sequence[Resize]) -> NDArray[np.float64]:
    """True intrinsics [S, 3, 3] of the network's images, pixels counted by whole coordinates of centres.

    `Resize` speaks of pixel edges, hence half a pixel there and back (spec evaluation.md 4.3).
    """
    edge = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    back = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    maps = np.stack([back @ resize.matrix() @ edge for resize in resizes])
    return np.asarray(maps @ sequence.intrinsics)


def resize_depth(depth: NDArray[np.float32], resize: Resize, height: int, width: int) -> NDArray[np.float32]:
    """Depth [h, w] of a source image -> [height, width] after its `resize`, 0 on padding.

    A pixel takes the value under its centre. A map of another resolution than its image is taken to cover the same
    view. Values stay: scaling an image does not move the scene.
    """
    x, y = resize.source_grid(height, width)
    return nearest(depth, x * (depth.shape[1] / resize.source_width), y * (depth.shape[0] / resize.source_height))


def nearest(values: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """[len(y), len(x)]: of values [h, w], the pixel that each place lies in (pixel i covers [i, i + 1)); 0 outside."""
    columns, rows = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    height, width = values.shape
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    picked = values[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))]
    return np.where(inside, picked, np.zeros((), values.dtype))
