"""The points worth showing: confident, finite, not masked, not too many."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.eval.reconstruction.scene import Scene

Array = NDArray[Any]


@dataclass(frozen=True)
class Cloud:
    """N points of the scene's world: points float32 [N, 3], colours uint8 [N, 3], confidence float32 [N]; frame int32
    [N] and pixel int32 [N, 2] (x, y) say which network pixel each came from. N may be 0."""

    points: Array
    colours: Array
    confidence: Array
    frame: Array
    pixel: Array

    def __len__(self) -> int:
        return len(self.points)

    def pick(self, indices: Array) -> Cloud:
        return Cloud(*(values[indices] for values in vars(self).values()))

    def at_most(self, count: int, seed: int = 0) -> Cloud:
        """Itself, or `count` points drawn evenly at random, in their old order. 0: no limit."""
        if count == 0 or len(self) <= count:
            return self
        return self.pick(np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False)))


@dataclass(frozen=True)
class Selection:
    """What a cloud is made of. keep bool [F, H, W]. The counts are pixels: total on images (without padding), invalid
    (not finite, or behind the camera), masked, jumps (beside a jump of depth), and doubtful ones below `threshold`, the
    confidence at the percentile.
    """

    keep: Array
    threshold: float
    total: int
    invalid: int
    masked: int
    jumps: int
    doubtful: int

    def counts(self) -> dict[str, float]:
        """JSON-ready."""
        return {
            "pixels": self.total,
            "invalid": self.invalid,
            "masked": self.masked,
            "depth_edges": self.jumps,
            "below_confidence": self.doubtful,
            "kept": int(self.keep.sum()),
            "confidence_threshold": self.threshold,
        }


def select(scene: Scene, inside: Array, unmasked: Array, percentile: float, edges: float = 0.0) -> Selection:
    """Drop padding, points that are not finite or behind their camera, masked pixels, those beside a jump of depth by
    more than the share `edges` (0: none), and then the `percentile` % of the rest that the network trusts least (over
    all images together; ties at the threshold stay)."""
    if not 0 <= percentile < 100:
        raise QvggtError(f"confidence percentile: expected 0 <= percentile < 100, got {percentile}")
    valid = inside & np.isfinite(scene.points).all(-1) & np.isfinite(scene.confidence)
    smooth = np.ones_like(valid)
    for slot, calm, points, extrinsics in zip(valid, smooth, scene.points, scene.extrinsics, strict=True):
        depth = points @ extrinsics[2, :3].astype(np.float32) + np.float32(extrinsics[2, 3])
        slot &= depth > 0
        if edges > 0:
            calm &= ~at_edge(depth, slot, edges)
    unhidden = valid & unmasked
    allowed = unhidden & smooth
    scores = scene.confidence[allowed]
    threshold = float(np.percentile(scores, percentile)) if len(scores) and percentile > 0 else 0.0
    kept = allowed & (scene.confidence >= threshold) if percentile > 0 else allowed
    left = [int(np.count_nonzero(mask)) for mask in (inside, valid, unhidden, allowed, kept)]
    invalid, masked, jumps, doubtful = (before - after for before, after in pairwise(left))
    return Selection(kept, threshold, left[0], invalid, masked, jumps, doubtful)


def at_edge(depth: Array, known: Array, share: float) -> Array:
    """bool [H, W]: pixels with a neighbour (3 x 3, of the `known`) so much farther than another one that the depths
    differ by more than `share` of the nearer. A network blends the depths there, and the points hang in the air."""
    from scipy import ndimage

    far = ndimage.maximum_filter(np.where(known, depth, 0), 3)
    near = ndimage.minimum_filter(np.where(known, depth, np.inf), 3)
    return np.asarray(far > (1 + share) * near)


def build_cloud(scene: Scene, selection: Selection, pixels: Array) -> Cloud:
    """The selected points with the colours of `pixels` uint8 [F, 3, H, W]."""
    frame, row, column = np.nonzero(selection.keep)
    return Cloud(
        scene.points[frame, row, column],
        pixels[frame, :, row, column],
        scene.confidence[frame, row, column],
        frame.astype(np.int32),
        np.stack([column, row], axis=1).astype(np.int32),
    )
