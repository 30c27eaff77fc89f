"""Depth per image: 16-bit PNG with one stated scale, and NPZ with everything exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.images import Resize
from qvggt.eval.ground_truth import nearest
from qvggt.eval.reconstruction.config import DepthSize
from qvggt.eval.reconstruction.scene import Scene
from qvggt.progress import bar

Array = NDArray[Any]

FARTHEST = 65534  # the integer of the 99.9th percentile of depth; 65535 means beyond, 0 no depth


@dataclass(frozen=True)
class DepthFiles:
    """depth = scale * integer, in the scene's unit; saturated: share of pixels beyond the largest one."""

    scale: float
    saturated: float


def write_depth_maps(
    folder: Path,
    names: Sequence[str],
    scene: Scene,
    resizes: Sequence[Resize],
    inside: Array,
    keep: Array,
    resolution: DepthSize = "network",
) -> DepthFiles:
    """For image NAME: folder/NAME.png and folder/NAME.npz.

    The PNG has the depth along z of the pixels that are kept (`keep` bool [F, H, W]), as 16-bit integers, at the
    resolution of the network or (nearest neighbour, 0 outside what the network saw) of the upright original image.
    The NPZ, always at the network's resolution, has depth, confidence (float32), inside and keep (bool) and the
    camera: intrinsics [3, 3] of these pixels, extrinsics [3, 4] camera-from-world.
    """
    assert scene.depth is not None
    from PIL import Image

    folder.mkdir(parents=True)
    usable = inside & np.isfinite(scene.depth) & (scene.depth > 0)
    known = scene.depth[usable]
    largest = float(np.percentile(known, 99.9)) if len(known) else 1.0
    scale = largest / FARTHEST
    for index, name in enumerate(bar(names, desc="write depth", unit="image")):
        depth, mask = scene.depth[index], usable[index] & keep[index]
        values = np.where(mask, np.clip(np.rint(np.where(mask, depth, 0) / scale), 1, FARTHEST + 1), 0)
        stored = values.astype(np.uint16)
        if resolution == "image":
            stored = to_source(stored, resizes[index])
        Image.fromarray(stored).save(folder / f"{name}.png", format="PNG")
        np.savez_compressed(
            folder / f"{name}.npz",
            depth=depth,
            confidence=scene.confidence[index],
            inside=inside[index],
            keep=keep[index],
            intrinsics=scene.intrinsics[index],
            extrinsics=scene.extrinsics[index],
        )
    return DepthFiles(scale, float(np.mean(known > scale * (FARTHEST + 0.5))) if len(known) else 0.0)


def to_source(values: Array, resize: Resize) -> Array:
    """Network pixels [H, W] -> pixels of the original image [source height, source width], 0 where it was not seen."""
    x = (np.arange(resize.source_width) + 0.5) * resize.scale_x + resize.offset_x
    y = (np.arange(resize.source_height) + 0.5) * resize.scale_y + resize.offset_y
    return nearest(values, x, y)
