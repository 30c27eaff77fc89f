"""Images as the network sees them, all on one canvas, one byte a channel; and the way back to the photograph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.image_file import image_size
from qvggt.data.images import Resize, inside_of
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.seen import view
from qvggt.progress import bar

Array = NDArray[Any]
WHITE = 255


@dataclass(frozen=True)
class Frames:
    """pixels uint8 [F, 3, H, W] RGB; resizes [F]: where the pixels of each image went."""

    pixels: Array
    resizes: tuple[Resize, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def floats(self, span: slice) -> NDArray[np.float32]:
        """Network input [S, 3, H, W] in [0, 1] of some frames."""
        return self.pixels[span].astype(np.float32) / np.float32(WHITE)

    def inside(self) -> Array:
        """bool [F, H, W]: the pixel's centre lies on the image, not on padding."""
        return inside_of(self.resizes, *self.size)

    def views(self) -> dict[str, int]:
        """What the network sees, in words -> of how many images."""
        height, width = self.size
        return dict(Counter(view(resize.size, (width, height)) for resize in self.resizes).most_common())

    def unseen(self) -> float:
        """The largest share of an image's area that was cropped away, 0..1."""
        height, width = self.size
        shares = []
        for r in self.resizes:
            seen_x = min(width, r.offset_x + r.scale_x * r.source_width) - max(0.0, r.offset_x)
            seen_y = min(height, r.offset_y + r.scale_y * r.source_height) - max(0.0, r.offset_y)
            shares.append(1 - seen_x * seen_y / (r.scale_x * r.source_width * r.scale_y * r.source_height))
        return max(shares)


def load_frames(paths: Sequence[Path], plan: ImagePlan) -> Frames:
    """Preprocess upright image files one by one, by the rules of `qvggt.data.images` for the whole list.

    plan: of several sizes the one that suits the images best is taken for all; images of other heights are centred on
    white. QvggtError as `qvggt.data.images`.
    """
    plan = plan.chosen([image_size(path) for path in paths] if plan.others else [])
    singles, resizes = [], []
    for path in bar(paths, desc="resize images", unit="image"):
        image, (resize,) = plan.load([path])
        singles.append(np.rint(image[0] * WHITE).astype(np.uint8))
        resizes.append(resize)
    height, width = (max(single.shape[axis] for single in singles) for axis in (1, 2))
    pixels = np.full((len(singles), 3, height, width), WHITE, np.uint8)
    for index, (slot, single) in enumerate(zip(pixels, singles, strict=True)):
        _, h, w = single.shape
        top, left = (height - h) // 2, (width - w) // 2  # an odd remainder goes to the far side
        slot[:, top : top + h, left : left + w] = single
        resizes[index] = resizes[index].moved(left, top)
    return Frames(pixels, tuple(resizes))
