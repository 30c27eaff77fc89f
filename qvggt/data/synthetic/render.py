"""Ray casting of a `Scene` with numpy: colour images, exact z-depth, cameras.

One primary ray and one shadow ray per pixel, Lambert shading, hard shadows. Pixel convention: index (u, v) looks along
((u - cx)/fx, (v - cy)/fy, 1) with cx = W/2, cy = H/2 and no half-pixel shift, the one VGGT unprojects depth with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.synthetic.scene import Pattern, Scene, SceneConfig, Texture
from qvggt.errors import QvggtError

Array = NDArray[Any]

_DOME, _GROUND, _FIRST_OBJECT = 0, 1, 2
_LIFT = np.float32(1e-3)  # shadow rays start this far off the surface, in scene units
_MIN_T = np.float32(1e-4)


@dataclass(frozen=True)
class Views:
    """images uint8 [F,H,W,3] RGB; depth float32 [F,H',W'] along the camera z axis, scene units, every pixel finite;
    extrinsics float64 [F,3,4] OpenCV camera-from-world; intrinsics float64 [F,3,3] pixels of the full image;
    fov_hw float64 [F,2] radians (vertical, horizontal)."""

    images: Array
    depth: Array
    extrinsics: Array
    intrinsics: Array
    fov_hw: Array


@dataclass(frozen=True)
class _Geometry:
    """float32 copies of the objects, spheres first; `order` maps them to their index in the scene."""

    order: Array
    spheres: int
    centres: Array  # [K,3]
    half: Array  # [K,3]
    turn: Array  # [K,3,3] object-from-world rotation


def intrinsics_of(scene: Scene, config: SceneConfig) -> Array:
    """float64 [3,3]; square pixels, the longer side spans `scene.fov` degrees, principal point (W/2, H/2)."""
    focal = max(config.height, config.width) / (2 * np.tan(np.radians(scene.fov) / 2))
    return np.array([[focal, 0, config.width / 2], [0, focal, config.height / 2], [0, 0, 1]])


def render(scene: Scene, config: SceneConfig, stride_depth: int = 1) -> Views:
    """Render every camera of `scene` at `config.height` x `config.width`; depth at pixels [::stride, ::stride]."""
    if stride_depth < 1:
        raise QvggtError(f"render stride_depth: expected >= 1, got {stride_depth}")
    height, width, frames = config.height, config.width, len(scene.extrinsics)
    camera = intrinsics_of(scene, config)
    geometry = _geometry(scene)
    images = np.empty((frames, height, width, 3), np.uint8)
    depth = np.empty((frames, -(-height // stride_depth), -(-width // stride_depth)), np.float32)
    for f, extrinsic in enumerate(scene.extrinsics):
        eye = (-extrinsic[:, :3].T @ extrinsic[:, 3]).astype(np.float32)
        rays = _rays(camera, extrinsic, height, width)
        distance, surface = _cast(geometry, scene.dome_radius, eye, rays)
        depth[f] = distance.reshape(height, width)[::stride_depth, ::stride_depth]
        colour = _shade(scene, geometry, eye, rays, distance, surface)
        images[f] = np.rint(255 * colour).astype(np.uint8).reshape(height, width, 3)
    half_fov = np.arctan(np.array([height / 2, width / 2]) / camera[0, 0])
    intrinsics, fov_hw = (np.repeat(a[None], frames, axis=0) for a in (camera, 2 * half_fov))
    return Views(images, depth, scene.extrinsics, intrinsics, fov_hw)


def _geometry(scene: Scene) -> _Geometry:
    order = np.argsort(scene.is_box, kind="stable")
    yaw = np.where(scene.is_box, scene.yaw, 0.0)[order]
    cos, sin, zero, one = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw), np.ones_like(yaw)
    turn = np.stack([cos, sin, zero, -sin, cos, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)
    solids = (values.astype(np.float32) for values in (scene.centres[order], scene.half[order], turn))
    return _Geometry(order, int(np.sum(~scene.is_box)), *solids)


def _rays(camera: Array, extrinsic: Array, height: int, width: int) -> Array:
    """World directions float32 [3, H*W] whose camera z component is 1, so that ray length = z-depth."""
    u = (np.arange(width) - camera[0, 2]) / camera[0, 0]
    v = (np.arange(height) - camera[1, 2]) / camera[1, 1]
    x, y, z = extrinsic[:, :3, None, None]
    grid = x * u + y * v[:, None] + z
    return grid.astype(np.float32).reshape(3, -1)


def _cast(geometry: _Geometry, dome_radius: float, eye: Array, rays: Array) -> tuple[Array, Array]:
    """Nearest hit: distance float32 [N] in units of the ray, surface id [N] (0 dome, 1 ground, 2 + object)."""
    squared = np.einsum("cn,cn->n", rays, rays)
    along = eye @ rays
    inside = float(eye @ eye) - dome_radius**2
    hits = np.empty((_FIRST_OBJECT + len(geometry.order), rays.shape[1]), np.float32)
    hits[_DOME] = (np.sqrt(along * along - squared * np.float32(inside)) - along) / squared
    with np.errstate(divide="ignore"):
        fall = -eye[2] / rays[2]
    hits[_GROUND] = np.where(fall > 0, fall, np.inf)
    n = geometry.spheres
    offset = eye - geometry.centres
    radius = geometry.half[:n, 0]
    excess = np.einsum("kc,kc->k", offset[:n], offset[:n]) - radius * radius
    hits[_FIRST_OBJECT : _FIRST_OBJECT + n] = _sphere_hits(offset[:n] @ rays, squared, excess[:, None])
    start = np.einsum("kij,kj->ki", geometry.turn[n:], offset[n:])
    hits[_FIRST_OBJECT + n :] = _box_hits(start[:, :, None], geometry.turn[n:] @ rays, geometry.half[n:])
    surface = np.argmin(hits, axis=0)
    return np.take_along_axis(hits, surface[None], axis=0)[0], surface


def _sphere_hits(along: Array, squared: Array, excess: Array) -> Array:
    """Entry distance [K,N] from outside (inf = miss): solve |o + t d|^2 = r^2 with along = o.d, excess = o.o - r^2."""
    inside_root = along * along - squared * excess
    entry = (-along - np.sqrt(np.maximum(inside_root, 0))) / squared
    return np.where((inside_root > 0) & (entry > _MIN_T), entry, np.float32(np.inf))


def _box_hits(start: Array, direction: Array, half: Array) -> Array:
    """Entry distance [K,N] from outside (inf = miss), slab method in box coordinates; inputs broadcast to [K,3,N]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / direction
        middle = -start * inverse
        reach = half[:, :, None] * np.abs(inverse)
        near = (middle - reach).max(axis=1)
        far = (middle + reach).min(axis=1)
    return np.where((near < far) & (near > _MIN_T), near, np.float32(np.inf))


def _shade(scene: Scene, geometry: _Geometry, eye: Array, rays: Array, distance: Array, surface: Array) -> Array:
    """RGB float32 [N,3] in [0,1] of the hit points. The dome is a lamp: its texture, unshaded."""
    points = eye[:, None] + rays * distance
    normals = np.zeros_like(points)
    albedo = np.empty((points.shape[1], 3), np.float32)
    dome = np.flatnonzero(surface == _DOME)
    albedo[dome] = _room_dome(points[:, dome]) if scene.dome is None else _texture(scene.dome, points[:, dome])
    ground = np.flatnonzero(surface == _GROUND)
    albedo[ground] = _texture(scene.ground, points[:, ground])
    normals[2, ground] = 1
    for k, index in enumerate(geometry.order):
        hit = np.flatnonzero(surface == _FIRST_OBJECT + k)
        if hit.size == 0:
            continue
        local = geometry.turn[k] @ (points[:, hit] - geometry.centres[k][:, None])
        albedo[hit] = _texture(scene.textures[index], local)
        scaled = local / geometry.half[k][:, None]
        if k >= geometry.spheres:  # a box: only the face that was hit counts
            face = np.argmax(np.abs(scaled), axis=0)
            scaled = np.where(np.arange(3)[:, None] == face, np.sign(scaled), np.float32(0))
        normals[:, hit] = geometry.turn[k].T @ scaled
    light = scene.light.astype(np.float32)
    facing = light @ normals
    lit = np.flatnonzero(facing > 0)
    lit = lit[~_shadowed(geometry, points[:, lit] + _LIFT * normals[:, lit], light)]
    shade = np.full(len(surface), scene.ambient, np.float32)
    shade[lit] += np.float32((1 - scene.ambient) * scene.diffuse_gain) * facing[lit]
    shade[dome] = 1
    return np.clip(albedo * shade[:, None], 0, 1)


def _shadowed(geometry: _Geometry, points: Array, light: Array) -> Array:
    """bool [N]: something stands between points [3,N] and the directional light."""
    n = geometry.spheres
    centres, radius = geometry.centres[:n], geometry.half[:n, 0]
    squares = np.einsum("cn,cn->n", points, points)
    level = np.einsum("kc,kc->k", centres, centres) - radius * radius
    excess = squares - 2 * (centres @ points) + level[:, None]
    along = light @ points - (centres @ light)[:, None]
    spheres = np.isfinite(_sphere_hits(along, np.float32(1), excess))
    turn = geometry.turn[n:]
    start = turn @ points - (turn @ geometry.centres[n:, :, None])
    boxes = np.isfinite(_box_hits(start, (turn @ light)[:, :, None], geometry.half[n:]))
    return np.asarray(np.concatenate([spheres, boxes]).any(axis=0))


def _texture(texture: Texture, points: Array) -> Array:
    """RGB float32 [N,3], not clipped, at points [3,N] in the surface's own coordinates."""
    angle = texture.directions @ points + texture.phases[:, None]
    waves = np.sin(np.float32(2 * np.pi) * angle)
    colour = waves[:3].T @ texture.amplitudes
    if texture.pattern == "none":
        return colour + texture.colours[0]
    return colour + texture.colours[_PATTERNS[texture.pattern](angle[3:], waves[3:]).astype(np.intp)]


def _bricks(angle: Array, _waves: Array) -> Array:
    """Joints between stones; every other row is moved by half a stone."""
    row = np.floor(angle[0])
    along = angle[1] / 2 + np.float32(0.5) * (row % 2)
    return np.asarray((angle[0] - row < 0.2) | (along - np.floor(along) < 0.1))


def _dots(angle: Array, _waves: Array) -> Array:
    offset = angle - np.floor(angle) - np.float32(0.5)
    return np.asarray(np.einsum("cn,cn->n", offset, offset) < 0.12)


def _marble(angle: Array, waves: Array) -> Array:
    """Stripes that wind along the second axis, and are as wide as the third tells."""
    winding = np.sin(np.float32(2 * np.pi) * (angle[0] + np.float32(0.35) * waves[1]))
    return np.asarray(winding > np.float32(0.5) * waves[2])


# of the surface's second colour, from the angles (cycles) [3,N] along the pattern's axes and their sines
_PATTERNS: dict[Pattern, Callable[[Array, Array], Array]] = {
    "stripes": lambda _angle, waves: waves[0] > 0,
    "checker": lambda _angle, waves: waves[0] * waves[1] * waves[2] > 0,
    "blobs": lambda _angle, waves: waves.sum(0) > np.float32(0.6),
    "rings": lambda angle, _waves: np.sin(np.float32(2 * np.pi) * np.sqrt(np.einsum("cn,cn->n", angle, angle))) > 0,
    "bricks": _bricks,
    "dots": _dots,
    "marble": _marble,
}


def _room_dome(points: Array) -> Array:
    """The one dome of family "room": hue follows the azimuth, so a single view tells where the camera looks."""
    azimuth = np.arctan2(points[1], points[0])
    channel = np.float32(2 * np.pi / 3) * np.arange(3, dtype=np.float32)
    hue = 0.5 + 0.4 * np.cos(azimuth[:, None] - channel)
    return (hue * (0.75 + 0.25 * np.sin(1.5 * points[2]))[:, None]).astype(np.float32)
