"""Images of a sequence as every candidate gets them, and its ground-truth depth on the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.image_file import ImageReader, image_size, read_rgb
from qvggt.data.images import Mode, Resize, load_images_exact, load_images_tracked, scaled_size
from qvggt.data.room_images import load_padded_room_images, load_room_images, room_size
from qvggt.data.sequence import Frames
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.engines.runner import Runner
from qvggt.errors import QvggtError
from qvggt.models.family import find_family

DEFAULT_SIZE = find_family().assumed[1].img_size
PATCH = find_family().patch_size
ROOM_SHAPE = (640, 480)  # of what the room protocols film


@dataclass(frozen=True)
class ImagePlan:
    """How images become pixels: of exactly the size `exact` (H, W), cropped or padded as `fit` says, or in VGGT's mode
    `fit` of the width `width`.

    room: to `exact` by the rules of 7-Scenes/NRGBD (`room_images`). others: further sizes (H, W) to choose from, for
    each sequence the one that fits best. owner: label of the candidate that takes no other sizes.
    """

    width: int
    exact: tuple[int, int] | None = None
    room: bool = False
    fit: Mode = "crop"
    others: tuple[tuple[int, int], ...] = ()
    owner: str | None = field(default=None, compare=False)

    def chosen(self, sources: Sequence[tuple[int, int]]) -> ImagePlan:
        """Of one size for images of these (width, height): that of the nearest aspect ratio, in doubt the first."""
        if self.exact is None or not self.others:
            return self
        shapes = [ROOM_SHAPE] if self.room else sources

        def likeness(size: tuple[int, int]) -> float:
            ratios = [size[1] * height / (size[0] * width) for width, height in shapes]
            return sum(min(ratio, 1 / ratio) for ratio in ratios) / len(ratios)

        return replace(self, exact=max((self.exact, *self.others), key=likeness), others=())

    def placed(self, source: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """(width, height) that an image of (width, height) is scaled to, and that of what the network gets of it."""
        plan = self.chosen([source])
        height, width = plan.exact or (plan.width, plan.width)
        if plan.exact is not None and plan.room and plan.fit == "pad":
            inner = room_size(height, width, PATCH)
            return (inner[1], inner[0]), (width, height)
        scaled = scaled_size(source, plan.fit, (height, width), PATCH)
        if plan.exact is not None and plan.fit == "crop" and (scaled != (width, height) or plan.room):
            scale = max(width / source[0], height / source[1])
            return (round(source[0] * scale), round(source[1] * scale)), (width, height)
        return scaled, (width, height if plan.fit == "pad" else min(height, scaled[1]))

    def load(
        self,
        paths: Sequence[Path],
        intrinsics: NDArray[np.float64] | None = None,
        read: ImageReader | None = None,
    ) -> tuple[NDArray[np.float32], list[Resize]]:
        """Images float32 [S, 3, H, W] in [0, 1] and where their pixels came from; QvggtError for unreadable ones.

        intrinsics [S, 3, 3] of the stored images: needed by `room` alone. read: of an image file, unless `room`.
        """
        if self.others:
            sources = [image_size(path, read is not read_rgb) for path in paths]
            return self.chosen(sources).load(paths, intrinsics, read)
        if self.exact is None:
            images, resizes = load_images_tracked(paths, self.fit, self.width, read=read)
        elif self.room:
            assert intrinsics is not None
            if self.fit == "pad" and (inner := room_size(*self.exact, PATCH)) != self.exact:
                return load_padded_room_images(paths, intrinsics, inner, *self.exact)
            return load_room_images(paths, intrinsics, *self.exact)
        else:
            images, resizes = load_images_exact(paths, *self.exact, read=read, mode=self.fit)
        return images.numpy(), resizes

    def load_frames(self, frames: Frames) -> tuple[NDArray[np.float32], list[Resize]]:
        """The images of a sequence, as `load` gives them."""
        intrinsics = frames.intrinsics if isinstance(frames, EvalSequence) else None
        return self.load(frames.image_paths, intrinsics, read=frames.image_reader)

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        if self.exact is None:
            return {"mode": self.fit, "width": self.width}
        mode, fit = ("room" if self.room else "exact"), ({} if self.fit == "crop" else {"fit": self.fit})
        others = {"others": [list(size) for size in self.others]} if self.others else {}
        return {"mode": mode, "height": self.exact[0], "width": self.exact[1], **fit, **others}


def plan_images(
    runners: Sequence[Runner], size: int | None = None, room: bool = False, fit: Mode = "crop"
) -> ImagePlan:
    """The one preprocessing all candidates share.

    Runners of fixed sizes decide for all; otherwise VGGT's own preprocessing with width `size`, by default the first
    runner's native size, or 518. room: that width and three quarters of it, in whole patches (518 x 392), as the room
    protocols do. fit: what happens to images of another shape; "crop" costs the tiny model less (docs/evaluation.md).
    QvggtError when no size suits all runners, or none of width `size`, or for a size that is no multiple of the patch.
    """
    fixed = [runner for runner in runners if runner.sizes]
    if fixed:
        owner, shared = fixed[0], [s for s in fixed[0].sizes if size in (None, s[1])]
        if not shared:
            raise QvggtError(f"size {size}: {owner.label} takes only {_sizes(owner)} images; leave the size out")
        for runner in fixed:
            if not (shared := [s for s in shared if s in runner.sizes]):
                raise QvggtError(
                    f"{runner.label} takes only {_sizes(runner)} images, {owner.label} only {_sizes(owner)}: "
                    "no fair comparison; evaluate them apart"
                )
        return ImagePlan(shared[0][1], shared[0], room, fit, tuple(shared[1:]), owner.label)
    native = runners[0].native_size if runners else None
    width = size or native or DEFAULT_SIZE
    if not room:
        return ImagePlan(width, fit=fit)
    if width % PATCH:
        raise QvggtError(f"size: expected a multiple of {PATCH}, got {width}; {width // PATCH * PATCH} would do")
    return ImagePlan(width, room_size(width, width, PATCH), room)


def _sizes(runner: Runner) -> str:
    return " or ".join(f"{height}x{width}" for height, width in runner.sizes)


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
    """Depth [h, w] of a source image -> [height, width] after its `resize`, 0 on padding (see `Resize.inside`).

    A pixel takes the value under its centre. A map of another resolution than its image is taken to cover the same
    view. Values stay: scaling an image does not move the scene.
    """
    x, y = resize.source_grid(height, width)
    near = nearest(depth, x * (depth.shape[1] / resize.source_width), y * (depth.shape[0] / resize.source_height))
    return near if resize.part is None else np.where(resize.inside(height, width), near, np.float32(0))


def nearest(values: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """[len(y), len(x)]: of values [h, w], the pixel that each place lies in (pixel i covers [i, i + 1)); 0 outside."""
    columns, rows = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    height, width = values.shape
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    picked = values[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))]
    return np.where(inside, picked, np.zeros((), values.dtype))
