"""The worst sequences: frames, depth maps on one colour scale, and points and cameras in 3D, ready for the template."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qvggt.eval.html.cloud import points_per_cloud, viewer_data
from qvggt.eval.html.document import Document, Worst
from qvggt.eval.html.pictures import data_uri, depth_colours, depth_range, evenly, relative_error
from qvggt.eval.html.stored import Array, Stored, read_stored
from qvggt.eval.html.text import number
from qvggt.eval.metrics import MetricWords

FRAMES = 4  # shown of a sequence
PICTURES = 600  # most pictures of a page: 3 kB each

Pictures = list[tuple[str, str]]
"""Addresses (the pictures themselves, as data) and titles."""


@dataclass(frozen=True)
class Row:
    """of: the input frames, the depth of the ground truth or of candidate `index`, or the distance of its depth from
    the first candidate's. pictures: empty when not measured."""

    of: Literal["frames", "truth", "depth", "distance"]
    pictures: Pictures
    index: int = 0


@dataclass(frozen=True)
class Shown:
    """frames: numbers of those shown, out of `total`. depths: ends of the colour scale. viewer: for viewer.js."""

    frames: list[int]
    total: int
    rows: list[Row]
    depths: tuple[float, float]
    viewer: dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """metric: of `worst.values`, None when the document does not describe it. shown: None without the file."""

    worst: Worst
    metric: MetricWords | None
    shown: Shown | None

    @property
    def loser(self) -> int | None:
        """The candidate that falls most below the first; None where none does."""
        first = self.worst.values[0]
        if first is None:
            return None
        falls = [(value - first, i) for i, value in enumerate(self.worst.values) if value is not None]
        fall, index = min(falls)
        return index if fall < 0 else None


def scenes(document: Document, names: Sequence[str], folder: Path) -> list[Scene]:
    """Every stored sequence; the files lie relative to `folder`. names: short ones of the candidates. QvggtError for a
    damaged file."""
    count = len(document.candidates)
    views = max(len(document.worst), 1) * (2 * count + 1)
    metrics = {metric.name: metric for metric in reversed(document.metrics)}
    made = []
    for worst in document.worst:
        # ".." is taken by name, as it was made: the folder of the page may not exist yet, or be a link
        stored = read_stored(Path(os.path.normpath(folder.absolute() / worst.file)), count)
        shown = None
        if stored is not None:
            frames = evenly(len(stored.images), max(min(FRAMES, PICTURES // views), 1))
            depths = depth_range([view.depth for view in (stored.truth, *stored.candidates) if view is not None])
            points = points_per_cloud(len(document.worst) * (count + 1))
            data = viewer_data(stored, names, _first_visible(worst), points)
            numbers = [int(stored.frames[i]) for i in frames]
            shown = Shown(numbers, len(stored.images), _rows(stored, frames, *depths), depths, data)
        made.append(Scene(worst, metrics.get(worst.metric), shown))
    return made


def _first_visible(worst: Worst) -> set[int]:
    """The first candidate and the one that loses most."""
    known = [(value, i) for i, value in enumerate(worst.values) if i and value is not None and math.isfinite(value)]
    return {0, min(known)[1] if known else len(worst.values) - 1}


def _rows(stored: Stored, frames: Sequence[int], low: float, high: float) -> list[Row]:
    def depths(depth: Array | None) -> Pictures:
        return [] if depth is None else [(data_uri(depth_colours(depth[i], low, high)), "depth") for i in frames]

    base = stored.candidates[0].depth
    rows = [Row("frames", [(data_uri(stored.images[i]), f"frame {stored.frames[i]}") for i in frames])]
    if stored.truth is not None:
        rows.append(Row("truth", depths(stored.truth.depth)))
    for index, view in enumerate(stored.candidates):
        rows.append(Row("depth", depths(view.depth), index))
        if index and view.depth is not None and base is not None:
            errors = [relative_error(view.depth[i], base[i]) for i in frames]
            pictures = [(data_uri(grey), f"median {_percent(median)} %") for grey, median in errors]
            rows.append(Row("distance", pictures))
    return rows


def _percent(share: float) -> str:
    return number(100 * share, 2) if math.isfinite(share) else "nothing known"
