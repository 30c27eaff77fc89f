"""GLB and PLY files, by trimesh."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.eval.reconstruction.cloud import Cloud
from qvggt.lazy import optional

Array = NDArray[Any]

GLTF_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])
"""OpenCV axes (y down, z forward) -> glTF axes (y up, z backward): the first camera becomes glTF's default camera."""


def import_trimesh() -> Any:
    return optional("trimesh", "GLB and PLY files need trimesh: pip install '.[reconstruct]' in the clone")


def write_ply(path: Path, cloud: Cloud) -> None:
    """Binary PLY: float32 positions in the scene's world (OpenCV axes, as COLMAP's), uint8 colours."""
    trimesh = import_trimesh()
    trimesh.PointCloud(cloud.points, colors=_opaque(cloud.colours)).export(str(path), file_type="ply")


def write_glb(
    path: Path,
    cloud: Cloud,
    extrinsics: Array,
    intrinsics: Array,
    size: tuple[int, int],
    chosen: int | None = None,
) -> None:
    """glTF binary: the points as node "points" and one wire pyramid per camera as node "camera_0001", ..., y up.

    extrinsics [F, 3, 4] camera-from-world; intrinsics [F, 3, 3] and size (H, W) of network pixels give the pyramids
    their shape. chosen: index of a camera to stand out, three times as large and white.
    """
    trimesh = import_trimesh()
    scene = trimesh.Scene()
    points = trimesh.PointCloud(to_gltf(cloud.points), colors=_opaque(cloud.colours))
    scene.add_geometry(points, node_name="points", geom_name="points")
    reach = pyramid_size(cloud, extrinsics)
    for index, (e, k) in enumerate(zip(extrinsics, intrinsics, strict=True)):
        path_lines = to_gltf(pyramid(e, k, size, 3 * reach if index == chosen else reach))
        wire = trimesh.load_path(path_lines)
        colour = (255, 255, 255, 255) if index == chosen else (*camera_colour(index, len(extrinsics)), 255)
        wire.colors = np.tile(np.array(colour, np.uint8), (len(wire.entities), 1))
        name = f"camera_{index + 1:04d}"
        scene.add_geometry(wire, node_name=name, geom_name=name)
    path.write_bytes(scene.export(file_type="glb"))


def camera_colour(index: int, count: int) -> tuple[int, int, int]:
    """RGB, red for the first camera to blue for the last."""
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(0.66 * index / max(1, count - 1), 0.9, 0.9))
    return red, green, blue


def to_gltf(points: Array) -> Array:
    """[..., 3] from OpenCV axes to glTF's."""
    return np.asarray(points @ GLTF_FROM_OPENCV)


def pyramid(extrinsics: Array, intrinsics: Array, size: tuple[int, int], reach: float) -> Array:
    """Eight line segments [8, 2, 3] in the world: from the camera's centre to the corners of its image at depth
    `reach`, and around the image."""
    height, width = size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    rays = (corners - intrinsics[:2, 2]) / np.array([intrinsics[0, 0], intrinsics[1, 1]])
    camera = np.concatenate([rays, np.ones((4, 1))], axis=1) * reach
    # a wide field of view must not make a pyramid that hides the scene
    camera *= min(1.0, 2 * reach / float(np.linalg.norm(camera, axis=1).max()))
    rotation, translation = extrinsics[:, :3], extrinsics[:, 3]
    corners_world, centre = (camera - translation) @ rotation, -translation @ rotation
    around = np.stack([corners_world, np.roll(corners_world, -1, axis=0)], axis=1)
    spokes = np.stack([np.tile(centre, (4, 1)), corners_world], axis=1)
    return np.concatenate([spokes, around])


def pyramid_size(cloud: Cloud, extrinsics: Array) -> float:
    """Depth of the drawn pyramids: a fiftieth of the extent of points and cameras (5th to 95th percentile)."""
    centres = -np.einsum("nji,nj->ni", extrinsics[:, :, :3], extrinsics[:, :, 3])
    every = np.concatenate([cloud.points[:: max(1, len(cloud) // 10_000)], centres])
    low, high = np.percentile(every, [5, 95], axis=0)
    return float(np.linalg.norm(high - low)) / 50 or 0.05


def _opaque(colours: Array) -> Array:
    return np.concatenate([colours, np.full((len(colours), 1), 255, np.uint8)], axis=1)
