"""Training batches from a rendered split: frames, poses, geometry and patch correspondences.

Frame 0 of every sampled sequence is the world frame; lengths are divided by the mean distance of all its points,
as VGGT does. Geometry lives on the stride-2 pixel grid the split stores.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scene_split import SceneSplit, load_split
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qvggt.geometry import matrix_to_quaternion

PATCH = 14
STRIDE = 2


@dataclass(frozen=True)
class Batch:
    """B sequences of S frames of H x W pixels; h, w = patch rows and columns; D = stride-2 grid."""

    images: Tensor  # [B, S, 3, H, W] in [0, 1]
    pose: Tensor  # [B, S, 9] translation, quaternion xyzw (w >= 0), fov
    depth: Tensor  # [B, S, D, D] z-depth, scaled
    points: Tensor  # [B, S, D, D, 3] in the frame of camera 0, scaled
    match: Tensor  # [B, S, S, h*w] int64: patch of frame j that sees the centre of patch p of frame i
    match_valid: Tensor  # [B, S, S, h*w] bool: visible there, i != j

    def to(self, device: torch.device) -> Batch:
        tensors = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in tensors})


@dataclass(frozen=True)
class Draw:
    """Which batch: `sequences` of `frames` frames out of `window` neighbouring ones, drawn by `seed`."""

    seed: tuple[int, ...]
    sequences: int
    frames: int
    window: int


class Draws(Dataset[tuple[Draw, Batch]]):
    """Batches of a split by what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def split(self) -> SceneSplit:
        return load_split(self.folder)  # in the process that reads it

    def __getitem__(self, draw: Draw) -> tuple[Draw, Batch]:
        rng = np.random.default_rng(draw.seed)
        return draw, sample_batch(rng, self.split, draw.sequences, draw.frames, draw.window)


def loader(folder: Path, draws: Iterable[Draw], device: torch.device) -> DataLoader[tuple[Draw, Batch]]:
    """Batches in order; for a GPU the CPU's other cores make them ahead of time."""
    workers = 0 if device.type == "cpu" else max(1, (os.cpu_count() or 2) - 2)
    return DataLoader(Draws(folder), sampler=draws, batch_size=None, num_workers=workers)


def choose_frames(rng: np.random.Generator, split: SceneSplit, scene: int, count: int, window: int) -> np.ndarray:
    """`count` frames of `scene` in random order, out of `window` frames neighbouring in azimuth."""
    total = split.images.shape[1]
    if window >= total:
        return rng.permutation(total)[:count]
    extrinsics = split.extrinsics[scene].astype(np.float64)
    centres = -np.einsum("fji,fj->fi", extrinsics[:, :, :3], extrinsics[:, :, 3])
    mean = centres[:, :2].mean(0)
    azimuth = np.arctan2(centres[:, 1], centres[:, 0]) - np.arctan2(mean[1], mean[0])
    order = np.argsort((azimuth + np.pi) % (2 * np.pi))
    start = rng.integers(0, total - window + 1)
    return rng.permutation(order[start : start + window])[:count]


def sample_batch(
    rng: np.random.Generator, split: SceneSplit, sequences: int, frames: int, window: int, augment: bool = True
) -> Batch:
    """Draw scenes with replacement; augmentation mirrors, permutes colours and changes brightness per sequence."""
    scenes = rng.integers(0, len(split), sequences)
    chosen = [choose_frames(rng, split, int(n), frames, max(window, frames)) for n in scenes]
    which = scenes[:, None], np.stack(chosen)
    images = split.images[which].astype(np.float32) / 255
    depth, extrinsics = split.depth[which].astype(np.float32), split.extrinsics[which].astype(np.float64)
    fov = split.fov[scenes].astype(np.float64)
    if augment:
        for b in range(sequences):
            images[b] = np.clip(images[b] * rng.uniform(0.8, 1.2), 0, 1)[..., rng.permutation(3)]
    return make_batch(images, depth, extrinsics, fov, rng.random(sequences) < 0.5 if augment else None)


def make_batch(
    images: np.ndarray, depth: np.ndarray, extrinsics: np.ndarray, fov: np.ndarray, mirror: np.ndarray | None
) -> Batch:
    """Targets for images [B, S, H, W, 3] with depth [B, S, D, D], extrinsics [B, S, 3, 4], fov [B, 2].

    `mirror` flips those sequences left-right after all geometry is known: the mirrored world has x negated.
    A flip moves the principal point from W/2 to W/2 - 1, one pixel; that is left as it is.
    """
    b, s, height, width, _ = images.shape
    bottom = np.broadcast_to(np.array([0.0, 0, 0, 1]), (b, s, 1, 4))
    world = np.concatenate([extrinsics, bottom], axis=2)
    world = world @ np.linalg.inv(world[:, :1])  # camera-from-(camera 0)
    focal = np.stack([width / 2 / np.tan(fov[:, 1] / 2), height / 2 / np.tan(fov[:, 0] / 2)], -1)  # fx, fy

    rows, cols = depth.shape[2:]
    u = (np.arange(cols) * STRIDE - width / 2)[None, None, None, :] / focal[:, 0, None, None, None]
    v = (np.arange(rows) * STRIDE - height / 2)[None, None, :, None] / focal[:, 1, None, None, None]
    rays = np.stack(np.broadcast_arrays(u, v, np.ones(1)), -1)  # [B, 1, D, D, 3]
    local = rays * depth[..., None]
    rotation, translation = world[..., :3, :3].copy(), world[..., :3, 3].copy()
    points = np.einsum("bsji,bsrcj->bsrci", rotation, local - translation[:, :, None, None])
    scale = np.linalg.norm(points, axis=-1).mean(axis=(1, 2, 3))

    match, valid = patch_matches(points, depth, rotation, translation, focal, height, width)
    if mirror is not None and mirror.any():
        flip = np.diag([-1.0, 1, 1])
        images, depth = images.copy(), depth.copy()
        images[mirror] = images[mirror, :, :, ::-1]
        depth[mirror] = depth[mirror, :, :, ::-1]
        points[mirror] = points[mirror, :, :, ::-1] @ flip
        rotation[mirror] = flip @ rotation[mirror] @ flip
        translation[mirror] = translation[mirror] @ flip
        grid = (b, s, s, height // PATCH, width // PATCH)
        match_row, match_col = np.divmod(match, width // PATCH)
        flipped = (match_row * (width // PATCH) + width // PATCH - 1 - match_col).reshape(grid)[..., ::-1]
        match[mirror] = flipped.reshape(match.shape)[mirror]
        valid[mirror] = valid.reshape(grid)[..., ::-1].reshape(valid.shape)[mirror]
    views = np.broadcast_to(fov[:, None], (b, s, 2))
    quaternions = matrix_to_quaternion(torch.from_numpy(rotation)).numpy()
    pose = np.concatenate([translation / scale[:, None, None], quaternions, views], axis=-1)

    def tensor(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))

    return Batch(
        images=tensor(images.transpose(0, 1, 4, 2, 3)),
        pose=tensor(pose),
        depth=tensor(depth / scale[:, None, None, None]),
        points=tensor(points / scale[:, None, None, None, None]),
        match=torch.from_numpy(match),
        match_valid=torch.from_numpy(valid),
    )


def patch_matches(
    points: np.ndarray,
    depth: np.ndarray,
    rotation: np.ndarray,
    translation: np.ndarray,
    focal: np.ndarray,
    height: int,
    width: int,
    tolerance: float = 0.06,
) -> tuple[np.ndarray, np.ndarray]:
    """Where the centre of each patch of frame i lands in frame j: (patch index, visible), each [B, S, S, h*w]."""
    b, s = points.shape[:2]
    step, half = PATCH // STRIDE, PATCH // STRIDE // 2
    centres = points[:, :, half::step, half::step].reshape(b, s, -1, 3)
    seen = np.einsum("bjxy,bipy->bijpx", rotation, centres) + translation[:, None, :, None]
    z = np.maximum(seen[..., 2], 1e-6)
    u = seen[..., 0] / z * focal[:, 0, None, None, None] + width / 2
    v = seen[..., 1] / z * focal[:, 1, None, None, None] + height / 2
    inside = (seen[..., 2] > 1e-3) & (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    u, v = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
    row = np.minimum(np.rint(v / STRIDE).astype(int), depth.shape[2] - 1)
    col = np.minimum(np.rint(u / STRIDE).astype(int), depth.shape[3] - 1)
    batch = np.arange(b)[:, None, None, None]
    frame = np.arange(s)[None, None, :, None]
    found = depth[batch, frame, row, col]
    valid = inside & (np.abs(found - z) < tolerance * z)
    valid[:, np.arange(s), np.arange(s)] = False
    patch = np.rint(v).astype(int) // PATCH * (width // PATCH) + np.rint(u).astype(int) // PATCH
    return patch.astype(np.int64), valid
