"""A reconstruction in memory, and how it is put together from one or more passes through a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from qvggt.data.images import Resize
from qvggt.engines.runner import Runner
from qvggt.errors import QvggtError
from qvggt.eval.points import predicted_cameras
from qvggt.eval.reconstruction.config import PointSource
from qvggt.eval.reconstruction.frames import Frames
from qvggt.eval.reconstruction.passes import Pass
from qvggt.eval.similarity import Similarity, fit_robust
from qvggt.geometry import unproject
from qvggt.predictions import CAMERAS, DEPTH, DEPTH_CONFIDENCE, POINTS, POINTS_CONFIDENCE, Predictions
from qvggt.progress import bar

Array = NDArray[Any]

ARRAYS = ("extrinsics", "intrinsics", "points", "confidence", "depth")  # of a scene, by frame
SAMPLES = 20_000  # pixels of a shared frame that an alignment uses


@dataclass(frozen=True)
class Scene:
    """F images of H x W network pixels, in one world: the frame of the first camera, OpenCV axes (x right, y down, z
    forward), arbitrary unit of length.

    extrinsics float64 [F, 3, 4]: camera-from-world. intrinsics float64 [F, 3, 3]: of network pixels, in VGGT's
    convention, by which the ray of pixel (u, v) goes through (u, v). depth float32 [F, H, W] along z, None when the
    network has none. points float32 [F, H, W, 3]; confidence float32 [F, H, W] of the points. Numbers that the
    network got wrong (not finite) are kept as they are: filter them.
    """

    extrinsics: Array
    intrinsics: Array
    points: Array
    confidence: Array
    depth: Array | None
    source: PointSource

    def source_intrinsics(self, resizes: Sequence[Resize]) -> Array:
        """Intrinsics float64 [F, 3, 3] of the original images, pixel i covering [i, i + 1) as in COLMAP.

        The network's ray of pixel u goes through u; the centre of that pixel is u + 0.5 here. So that every point
        projects to the place its colour came from, the principal point lies half a network pixel beyond the centre.
        """
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        return np.stack([np.linalg.inv(r.matrix()) @ half @ k for r, k in zip(resizes, self.intrinsics, strict=True)])


@dataclass(frozen=True)
class Join:
    """How a pass was fitted to what came before, from the pixels of the images both saw.

    residual_median, residual_rms: distance between the two predictions of a pixel after the fit, divided by the median
    depth of these pixels. camera_deg, camera_shift: largest difference of a shared camera after the fit, degrees and
    fractions of the same depth. scale: the pass's unit of length in units of the first pass.
    """

    first: int
    stop: int
    shared: int
    scale: float
    residual_median: float
    residual_rms: float
    camera_deg: float
    camera_shift: float


def reconstruct(
    runner: Runner, frames: Frames, passes: Sequence[Pass], source: PointSource = "depth"
) -> tuple[Scene, list[Join]]:
    """Run the network over `passes` and put the results into the frame of the first camera.

    Every further pass is turned, scaled and shifted by the similarity that brings its points of the shared images
    onto those found before (confidence-weighted, robust). An image seen twice keeps its first prediction.
    source: "depth" unprojects depth maps with the cameras, "head" takes the network's point maps.
    QvggtError when the network lacks an output or a camera is not finite.
    """
    check_outputs(runner, source)
    joins: list[Join] = []
    scene: Scene | None = None
    inside = frames.inside()
    for one in bar(passes, desc="reconstruct", unit="pass", shown=len(passes) > 1):
        part = interpret(runner(frames.floats(one.span)), frames.size, source, runner.label)
        if scene is None:
            scene = _empty(part, len(frames))
            motion = _to_first_camera(part)
        else:
            motion, join = fit_pass(scene, part, one, inside[one.start : one.start + one.shared])
            joins.append(join)
        _put(scene, moved(part, motion), one)
    assert scene is not None
    return scene, joins


def check_outputs(runner: Runner, source: PointSource) -> None:
    if source not in get_args(PointSource):
        raise QvggtError(f"points: expected one of {', '.join(get_args(PointSource))}, got {source!r}")
    needed = {"depth": (CAMERAS, DEPTH, DEPTH_CONFIDENCE), "head": (CAMERAS, POINTS, POINTS_CONFIDENCE)}
    missing = [name for name in needed[source] if name not in runner.outputs]
    if missing:
        raise QvggtError(
            f"{runner.label}: computes no {missing[0]}, only {', '.join(runner.outputs)}; points from {source} need it"
        )


def interpret(predictions: Predictions, size: tuple[int, int], source: PointSource, label: str) -> Scene:
    """Predictions of one pass -> a scene in the pass's own world and unit."""
    extrinsics, intrinsics = predicted_cameras(predictions, *size)
    finite = torch.isfinite(torch.cat([extrinsics.flatten(1), intrinsics.flatten(1)], 1)).all(1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise QvggtError(
            f"{label}: the camera of image {bad + 1} of {len(finite)} in a pass is not finite; "
            "check the model with qvggt eval"
        )
    depth = predictions.depth
    points, confidence = predictions.world_points, predictions.world_points_conf
    if source == "depth":
        assert depth is not None
        points, confidence = _unprojected(depth, extrinsics, intrinsics), predictions.depth_conf
    assert points is not None
    assert confidence is not None
    return Scene(extrinsics.numpy(), intrinsics.numpy(), points, confidence, depth, source)


def moved(scene: Scene, motion: Similarity) -> Scene:
    """The same scene in another world."""
    points = np.empty_like(scene.points)
    for slot, frame in zip(points, scene.points, strict=True):
        slot[:] = motion.points(frame)
    depth = None if scene.depth is None else scene.depth * np.float32(motion.scale)
    return replace(scene, extrinsics=motion.extrinsics(scene.extrinsics), points=points, depth=depth)


def fit_pass(scene: Scene, part: Scene, one: Pass, inside: Array) -> tuple[Similarity, Join]:
    """The similarity that moves `part` (images one.start..) into the world of `scene`, and how well it fits.

    inside bool [shared, H, W]: pixels of the shared images that are no padding.
    """
    shared = slice(one.start, one.start + one.shared)
    before, here = scene.points[shared], part.points[: one.shared]
    weights = np.sqrt(np.clip(scene.confidence[shared] * part.confidence[: one.shared], 0, None))
    good = inside & np.isfinite(before).all(-1) & np.isfinite(here).all(-1) & np.isfinite(weights)
    picked = np.concatenate([_spread(frame, i * frame.size) for i, frame in enumerate(good)])
    if len(picked) < 3:
        raise QvggtError(
            f"images {one.start + 1} to {one.start + one.shared}: hold no finite point shared by two passes, "
            "so they cannot be joined; raise --max-frames-per-pass"
        )
    target, source = before.reshape(-1, 3)[picked].astype(np.float64), here.reshape(-1, 3)[picked].astype(np.float64)
    strength = weights.reshape(-1)[picked].astype(np.float64)
    motion, residuals = fit_robust(source, target, np.minimum(strength, np.percentile(strength, 99)))
    centre = scene.extrinsics[one.start]
    unit = float(np.median(np.abs(target @ centre[2, :3] + centre[2, 3]))) or 1.0  # depth from the first shared camera
    degrees, shift = _camera_differences(motion.extrinsics(part.extrinsics[: one.shared]), scene.extrinsics[shared])
    return motion, Join(
        one.start,
        one.stop,
        one.shared,
        motion.scale,
        float(np.median(residuals)) / unit,
        float(np.sqrt(np.mean(residuals**2))) / unit,
        degrees,
        shift / unit,
    )


def _to_first_camera(part: Scene) -> Similarity:
    """The rigid motion into the frame of the first camera, which the network aims for but does not hit exactly."""
    first = part.extrinsics[0]
    return Similarity(1.0, first[:, :3], first[:, 3])


def _unprojected(depth: Array, extrinsics: torch.Tensor, intrinsics: torch.Tensor) -> Array:
    """float32 [S, H, W, 3], computed in float64 one frame at a time."""
    points = np.empty((*depth.shape, 3), np.float32)
    for slot, values, e, k in zip(points, depth, extrinsics, intrinsics, strict=True):
        slot[:] = unproject(torch.from_numpy(values).double(), e, k).numpy()
    return points


def _empty(part: Scene, count: int) -> Scene:
    arrays: Any = {name: like for name in ARRAYS if (like := getattr(part, name)) is not None}
    empty: Any = {name: np.zeros((count, *like.shape[1:]), like.dtype) for name, like in arrays.items()}
    return replace(part, **empty)


def _put(scene: Scene, part: Scene, one: Pass) -> None:
    """Fill in the images of `part` that no pass before has seen."""
    for name in ARRAYS:
        if (whole := getattr(scene, name)) is not None:
            whole[one.start + one.shared : one.stop] = getattr(part, name)[one.shared :]


def _spread(mask: Array, offset: int) -> Array:
    """Up to SAMPLES indices of true pixels [H, W], evenly spread; counted from `offset` in a flat stack."""
    indices = np.flatnonzero(mask)
    return indices[:: max(1, -(-len(indices) // SAMPLES))] + offset


def _camera_differences(a: Array, b: Array) -> tuple[float, float]:
    """Largest angle (degrees) and largest distance of the centres between cameras [N, 3, 4] of one world."""
    turn = np.einsum("nij,nkj->nik", a[..., :3], b[..., :3])
    # the chord of the angle: arccos of the trace has no precision near zero
    chord = np.linalg.norm(turn - np.eye(3), axis=(1, 2)) / np.sqrt(2)
    degrees = np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))
    centres = [-np.einsum("nji,nj->ni", e[..., :3], e[..., 3]) for e in (a, b)]
    return float(degrees.max()), float(np.linalg.norm(centres[0] - centres[1], axis=1).max())
