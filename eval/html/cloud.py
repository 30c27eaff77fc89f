"""Points and cameras of a stored sequence in the form that viewer.js reads."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.eval.html.stored import Stored, View
from qvggt.eval.html.text import plain, variable

BUDGET = 2_000_000  # most points of a page: about 8 bytes each
FRUSTUM = 0.12  # depth of a drawn camera, in halves of the box
REACH = 1.3  # the box, over the longest side of the one that has all but 2 % of the points on either side
WIDE = 8  # halves of the box that a coordinate may be away from its middle
STEPS = 32767 // WIDE  # of int16, a half of the box: less than a pixel


def points_per_cloud(clouds: int) -> int:
    return max(BUDGET // max(clouds, 1), 200)


def viewer_data(stored: Stored, names: Sequence[str], shown: set[int], most: int) -> dict[str, Any]:
    """JSON-ready: "clouds", one per candidate and first of all the ground truth, if there is one; "colors" of points.

    All coordinates are in halves of one box around the points of the ground truth (without: of the first candidate), in
    the frame of the first camera (x right, y down, z forward). points: int16 [3, M], `steps` = 1; colors: which of the
    "colors", uint8 [M, 3] each, as clouds of the same pixels share them; cameras: per frame, centre and four corners,
    15 numbers; outside: points not shown because they are WIDE boxes away or not finite; total: points in the file.
    shown: candidates that are visible at first. Bytes are deflated, in base64.
    """
    views: dict[int, View] = {} if stored.truth is None else {-1: stored.truth}
    views |= dict(enumerate(stored.candidates))
    middle, half = _box([*views.values()])
    clouds, palettes = [], dict[str, int]()
    for candidate, view in views.items():
        points, colors, counts = _points(view, middle, half, most)
        clouds.append(
            {
                "name": "ground truth" if candidate < 0 else plain(names[candidate]),
                "colour": variable(None if candidate < 0 else candidate),
                "shown": candidate in shown,
                "cameras": _cameras(view, stored.images.shape[1:3], middle, half),
                "points": points,
                "colors": palettes.setdefault(colors, len(palettes)),
                **counts,
            }
        )
    return {"clouds": clouds, "colors": list(palettes), "steps": STEPS}


def _box(views: list[View]) -> tuple[NDArray[np.float64], float]:
    """Middle [3] and half side of the box."""
    for view in views:
        if view.points is None:
            continue
        points = view.points[np.isfinite(view.points).all(-1)]
        if len(points):
            low, high = np.percentile(points.astype(np.float64), (2, 98), axis=0)
            middle, half = (low + high) / 2, REACH * float((high - low).max()) / 2
            if half > 0:
                return middle, half
    centres = np.concatenate([_centres(view) for view in views])
    middle = np.median(centres, axis=0)
    return middle, max(2 * float(np.abs(centres - middle).max()), 1e-6)


def _points(view: View, middle: NDArray[np.float64], half: float, most: int) -> tuple[str, str, dict[str, int]]:
    """Points and colours as text, and how many there are."""
    if view.points is None or view.colors is None:
        return "", "", {"count": 0, "total": 0, "outside": 0}
    own = (view.points - middle) / half
    inside = np.flatnonzero(np.isfinite(own).all(-1) & (np.abs(own) <= WIDE).all(-1))
    shown = inside[np.linspace(0, len(inside) - 1, min(len(inside), most)).astype(np.int64)]
    coded = np.rint(own[shown] * STEPS).astype("<i2")
    counts = {"count": len(shown), "total": len(view.points), "outside": len(view.points) - len(inside)}
    return packed(coded.T.tobytes()), packed(view.colors[shown].astype(np.uint8).tobytes()), counts


def packed(content: bytes) -> str:
    """Deflated (zlib's form), in base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _centres(view: View) -> NDArray[np.float64]:
    """Camera centres [S', 3], of the cameras that are finite."""
    rotation, shift = view.extrinsics[:, :, :3], view.extrinsics[:, :, 3]
    centres = -np.einsum("sji,sj->si", rotation, shift)
    return np.asarray(centres[np.isfinite(centres).all(-1)])


def _cameras(view: View, size: tuple[int, ...], middle: NDArray[np.float64], half: float) -> list[list[float]]:
    """Centre and corners of every finite camera; `size` is (height, width) of the maps of its intrinsics."""
    height, width = size
    pixels = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    cameras = []
    for extrinsics, intrinsics in zip(view.extrinsics, view.intrinsics.astype(np.float64), strict=True):
        if not (np.isfinite(extrinsics).all() and np.isfinite(intrinsics).all()) or not np.linalg.det(intrinsics):
            continue
        rays = np.linalg.solve(intrinsics, pixels.T).T * FRUSTUM * half  # [4, 3], camera frame
        corners = np.concatenate([np.zeros((1, 3)), rays]) - extrinsics[:, 3]
        world = (corners @ extrinsics[:, :3] - middle) / half  # rows times R = R^T times columns
        cameras.append([round(float(value), 5) for value in world.ravel()])
    return cameras
