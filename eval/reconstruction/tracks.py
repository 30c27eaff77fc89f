"""Points of the first image followed through the others, by a model with its track head (PyTorch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.images import Resize
from qvggt.engines.runner import Array as FloatArray
from qvggt.engines.runner import ModelFile
from qvggt.engines.torch_runner import TorchRunner, named, usual_type
from qvggt.errors import QvggtError
from qvggt.hub.loading import load_model
from qvggt.hub.names import find_weights
from qvggt.models.loading import config_of, held_heads
from qvggt.predictions import TRACK_CONFIDENCE, TRACKS, VISIBILITY
from qvggt.quant.checkpoint import is_calibrated
from qvggt.tensor_file import open_tensors

Array = NDArray[Any]


@dataclass(frozen=True)
class Tracks:
    """N points through S images: places float32 [S, N, 2] (x, y), visibility and confidence float32 [S, N] in 0..1."""

    places: Array
    visibility: Array
    confidence: Array


class TrackingRunner(TorchRunner):
    """A PyTorch runner whose network also follows `queries` float32 [N, 2], (x, y) network pixels of the first image.
    `tracks` has the result of the last call, in network pixels."""

    queries: FloatArray | None = None
    tracks: Tracks | None = None

    def _run(self, images: FloatArray) -> dict[str, FloatArray]:
        if self.queries is None:
            return super()._run(images)
        arrays = self.compute(images, self.queries)
        self.tracks = Tracks(arrays[TRACKS][0], arrays[VISIBILITY][0], arrays[TRACK_CONFIDENCE][0])
        return {name: arrays[name] for name in self.outputs}


def open_tracking(
    source: str, *, float_type: str | None, device: str, revision: str | None = None, offline: bool = False
) -> TrackingRunner:
    """A float checkpoint with its track head. QvggtError when it has none; names and float_type as `open_model`."""
    if is_calibrated(source):
        raise QvggtError(f"{source}: tracks need a float model with its track head, got a calibrated checkpoint")
    path = find_weights(source, revision=revision, offline=offline)
    file = open_tensors(path)
    heads = held_heads(file, config_of(file))
    if "track" not in heads:
        raise QvggtError(f"{source}: has no track head, only {', '.join(heads)}; leave the query points out")
    model = load_model(path, heads=heads)
    name = named(Path(source).name, model, None, float_type or usual_type(device))
    return TrackingRunner(model, *name, files=(ModelFile.of(path),), device=device)


def read_queries(path: Path) -> Array:
    """Query points float64 [N, 2], (x, y) pixels of the upright first image: a text file with two numbers a line,
    separated by a comma or spaces; lines that start with # are skipped. QvggtError names the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise QvggtError(f"{path}: expected a text file of query points, got: {error}") from error
    points = []
    for number, text in enumerate(lines, start=1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        try:
            x, y = (float(part) for part in text.replace(",", " ").split())
        except ValueError:
            raise QvggtError(f"{path}: line {number}: expected two numbers x y, got {text.strip()[:40]!r}") from None
        points.append((x, y))
    if not points:
        raise QvggtError(f"{path}: holds no query point; expected lines of x y in pixels of the first image")
    return np.array(points, np.float64)


def grid_queries(number: int, resize: Resize, size: tuple[int, int]) -> Array:
    """`number` x `number` points spread evenly over what the network (H, W) sees of the first image, in its pixels."""
    height, width = size
    low = to_source(np.array([[0.0, 0.0]]), resize)[0]
    high = to_source(np.array([[width, height]], np.float64), resize)[0]
    low, high = np.maximum(low, 0), np.minimum(high, [resize.source_width, resize.source_height])
    steps = (np.arange(number) + 0.5) / number
    x, y = np.meshgrid(low[0] + steps * (high[0] - low[0]), low[1] + steps * (high[1] - low[1]))
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def to_network(places: Array, resize: Resize, size: tuple[int, int]) -> FloatArray:
    """Pixels of the first image -> queries float32 for the network, whose pixel u has its centre at u (see Scene).

    QvggtError for a point that the network does not see.
    """
    moved = places * [resize.scale_x, resize.scale_y] + [resize.offset_x, resize.offset_y]
    height, width = size
    outside = ~((moved >= 0) & (moved <= [width, height])).all(axis=1)
    outside |= ~((places >= 0) & (places <= [resize.source_width, resize.source_height])).all(axis=1)
    if outside.any():
        x, y = places[int(np.flatnonzero(outside)[0])]
        raise QvggtError(
            f"query point ({x:g}, {y:g}): outside of what the network sees of the first image "
            f"({resize.source_width}x{resize.source_height} pixels, centre crop); choose another point"
        )
    return (moved - 0.5).astype(np.float32)


def pixels(places: Array, resize: Resize, size: tuple[int, int]) -> tuple[Array, Array]:
    """Columns and rows of the network's pixels (of an (H, W) canvas) that hold places [N, 2] of the original."""
    moved = np.floor(places * [resize.scale_x, resize.scale_y] + [resize.offset_x, resize.offset_y]).astype(int)
    return np.clip(moved[:, 0], 0, size[1] - 1), np.clip(moved[:, 1], 0, size[0] - 1)


def to_source(places: Array, resize: Resize) -> Array:
    """Continuous network coordinates [..., 2] -> those of the original image."""
    return np.asarray((places - [resize.offset_x, resize.offset_y]) / [resize.scale_x, resize.scale_y])


def in_sources(tracks: Tracks, resizes: Sequence[Resize]) -> Tracks:
    """Tracks in pixels of the network -> in pixels of the upright original images."""
    places = np.stack([to_source(p + 0.5, r) for p, r in zip(tracks.places, resizes, strict=True)])
    return Tracks(places.astype(np.float32), tracks.visibility, tracks.confidence)


def write_tracks(path: Path, names: Sequence[str], queries: Array, tracks: Tracks) -> None:
    """NPZ: images [S] names, queries [N, 2], tracks [S, N, 2], visibility, confidence [S, N]; pixels of originals."""
    np.savez_compressed(
        path,
        images=np.array(names),
        queries=queries,
        tracks=tracks.places,
        visibility=tracks.visibility,
        confidence=tracks.confidence,
    )
