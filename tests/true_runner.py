"""Photographs of generated scenes, and a runner that answers with the truth in the manner of VGGT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from qvggt.data.synthetic import render as renderer
from qvggt.data.synthetic.scene import Scene, SceneConfig, sample_scene
from qvggt.engines.runner import Runner
from qvggt.eval.reconstruction.frames import Frames
from qvggt.eval.similarity import Similarity
from qvggt.geometry import encode_pose, unproject

Array = NDArray[Any]


@dataclass(frozen=True)
class Shoot:
    """A scene photographed: image files of sizes [F] (height, width), as an upright viewer sees them."""

    scene: Scene
    paths: list[Path]
    sizes: list[tuple[int, int]]

    def intrinsics(self, index: int) -> Array:
        """Of the renderer: integer coordinates are pixel centres."""
        height, width = self.sizes[index]
        return renderer.intrinsics_of(self.scene, SceneConfig(height=height, width=width))


def shoot(folder: Path, sizes: Sequence[tuple[int, int]], seed: int = 3, suffix: str = ".png") -> Shoot:
    """One photograph per (height, width), all of one scene."""
    scene = sample_scene(SceneConfig(frames=len(sizes)), seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (height, width) in enumerate(sizes):
        one = replace(scene, extrinsics=scene.extrinsics[index : index + 1])
        views = renderer.render(one, SceneConfig(height=height, width=width))
        paths.append(folder / f"view{index}{suffix}")
        Image.fromarray(views.images[0]).save(paths[-1])
    return Shoot(scene, paths, list(sizes))


def depth_along(scene: Scene, extrinsics: Array, intrinsics: Array, height: int, width: int) -> Array:
    """True depth [H, W] of rays through integer pixel coordinates of any pinhole camera."""
    eye = (-extrinsics[:, :3].T @ extrinsics[:, 3]).astype(np.float32)
    rays = renderer._rays(intrinsics, extrinsics, height, width)
    distance, _ = renderer._cast(renderer._geometry(scene), scene.dome_radius, eye, rays)
    return distance.reshape(height, width)


class TrueRunner(Runner):
    """Knows the frames it may be shown. Every call answers in a world, unit of length and orientation of its own
    (`own_worlds`), as a network does; noise: relative error of depth, one standard deviation, smooth over the image.
    """

    label = "truth"

    def __init__(
        self, taken: Shoot, frames: Frames, *, own_worlds: bool = False, noise: float = 0.0, seed: int = 0
    ) -> None:
        height, width = frames.size
        self.known = {frames.floats(slice(i, i + 1)).tobytes(): i for i in range(len(frames))}
        self.extrinsics = taken.scene.extrinsics
        self.intrinsics = np.zeros((len(frames), 3, 3))
        for index, (k, resize) in enumerate(zip(self.intrinsics, frames.resizes, strict=True)):
            source = taken.intrinsics(index)
            k[0, 0], k[1, 1] = source[0, 0] * resize.scale_x, source[1, 1] * resize.scale_y
            k[:, 2] = width / 2, height / 2, 1  # the only principal point that VGGT can say
        self.depth = np.stack(
            [
                depth_along(taken.scene, e, k, height, width)
                for e, k in zip(self.extrinsics, self.intrinsics, strict=True)
            ]
        )
        self.own_worlds, self.noise, self.rng = own_worlds, noise, np.random.default_rng(seed)
        self.calls: list[list[int]] = []
        self.open = True

    def points(self) -> Array:
        """True points [F, H, W, 3] in the frame of the first camera, OpenCV axes."""
        first = Similarity(1.0, self.extrinsics[0, :, :3], self.extrinsics[0, :, 3])
        parts = (torch.from_numpy(a).double() for a in (self.depth, first.extrinsics(self.extrinsics), self.intrinsics))
        return unproject(*parts).numpy()

    def _run(self, images: Array) -> dict[str, Array]:
        chosen = [self.known[images[i : i + 1].tobytes()] for i in range(len(images))]
        self.calls.append(chosen)
        first = self.extrinsics[chosen[0]]
        motion = Similarity(1.0, first[:, :3], first[:, 3])
        if self.own_worlds:
            scale = float(self.rng.uniform(0.3, 3))
            motion = Similarity(scale, motion.rotation, scale * motion.translation)
        extrinsics = motion.extrinsics(self.extrinsics[chosen])
        depth = self.depth[chosen] * motion.scale
        for slot in depth:
            slot *= 1 + self.noise * self._ripple(slot.shape)
        height, width = images.shape[2:]
        tensors = [torch.from_numpy(np.ascontiguousarray(a)).double() for a in (extrinsics, self.intrinsics[chosen])]
        points = unproject(torch.from_numpy(depth).double(), *tensors).numpy()
        ones = np.ones_like(depth)
        values = {
            "pose_enc": encode_pose(*tensors, height, width).numpy(),
            "depth": depth[..., None],
            "depth_conf": 1 + ones,
            "world_points": points,
            "world_points_conf": 1 + ones,
        }
        return {name: value[None].astype(np.float32) for name, value in values.items()}

    def _ripple(self, shape: tuple[int, ...]) -> Array:
        """A smooth random field of unit standard deviation."""
        y, x = np.mgrid[: shape[0], : shape[1]]
        field = np.zeros(shape)
        for _ in range(6):
            fx, fy = self.rng.normal(0, 0.08, 2)
            field += np.sin(x * fx + y * fy + self.rng.uniform(0, 6.28))
        return field / np.sqrt(3)

    @property
    def closed(self) -> bool:
        return not self.open

    def close(self) -> None:
        self.open = False

    def describe(self) -> dict[str, Any]:
        return {"kind": "truth", **self._facts()}
