"""Random multi-view worlds: textured objects on a ground plane under a closed dome, and the cameras that look at them.

Distributions of spec/tiny_model.md section 1. World frame: z up, ground plane z = 0, lengths in scene units.
A scene depends on the seed, the family and the ranges, never on the image size, so one seed at two sizes is one world.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.mapping import from_mapping

Range = tuple[float, float]
Family = Literal["random", "room"]
Pattern = Literal["none", "checker", "stripes", "blobs", "rings", "bricks", "marble", "dots"]
Array = NDArray[Any]

WINDOWS = {"random": 110.0, "room": 140.0}
PATTERNS: tuple[Pattern, ...] = ("none", "checker", "stripes", "blobs")
RICH_PATTERNS: tuple[Pattern, ...] = (*PATTERNS, "rings", "bricks", "marble", "dots")
GENERATOR_VERSION = 1  # part of every stored config: raise it when the same seed gives another picture
_ROOM_GROUND_SEED = 77
_ROOM_LIGHT_AZIMUTH = 0.7


@dataclass(frozen=True)
class TextureRanges:
    """Frequencies in cycles per scene unit; `amplitude` is the std of the RGB amplitude of each sine wave."""

    low: Range
    amplitude: float
    pattern: Range


@dataclass(frozen=True)
class SceneConfig:
    """What to draw from. Angles in degrees, image size in pixels, `fov` is the field of view of the longer side.

    family "random" shares nothing between scenes (spec distribution X): only matching across views finds the cameras.
    family "room" keeps one dome, ground, light azimuth and camera sector (distribution S): a model may learn the room.
    """

    height: int = 70
    width: int = 70
    family: Family = "random"
    frames: int = 8
    objects: tuple[int, int] = (4, 7)
    size: Range = (0.2, 0.5)
    box_side: Range = (0.6, 1.0)
    box_height: Range = (0.6, 1.8)
    disc_radius: float = 1.3
    separation: float = 0.8
    dome_radius: float = 6.0
    fov: Range = (45.0, 65.0)
    orbit: Range = (2.6, 3.5)
    orbit_jitter: Range = (0.85, 1.2)
    elevation: Range = (18.0, 40.0)
    elevation_std: float = 6.0
    elevation_clip: Range = (6.0, 55.0)
    eye_lift: float = 0.25
    target: tuple[float, float, float] = (0.0, 0.0, 0.35)
    target_std: tuple[float, float, float] = (0.15, 0.15, 0.08)
    roll_std: float = 3.0
    window: float | None = None  # None: that of the family
    light_elevation: Range = (30.0, 65.0)
    ambient: Range = (0.35, 0.55)
    diffuse_gain: float = 1.15
    object_texture: TextureRanges = TextureRanges((0.2, 0.6), 0.15, (1.0, 2.5))
    ground_texture: TextureRanges = TextureRanges((0.08, 0.3), 0.22, (0.4, 1.2))
    dome_texture: TextureRanges = TextureRanges((0.03, 0.1), 0.3, (0.1, 0.25))
    patterns: tuple[Pattern, ...] = PATTERNS

    def __post_init__(self) -> None:
        if self.family not in WINDOWS:
            raise QvggtError(f"scene family: expected random or room, got {self.family!r}")
        if min(self.height, self.width) < 2 or self.frames < 1:
            raise QvggtError(
                f"scene size: expected height, width >= 2 and frames >= 1, "
                f"got {self.height}x{self.width}, {self.frames} frames"
            )
        if not self.patterns or not set(self.patterns) <= set(RICH_PATTERNS):
            raise QvggtError(f"scene patterns: expected some of {', '.join(RICH_PATTERNS)}, got {self.patterns}")
        if not 1 <= self.objects[0] <= self.objects[1]:
            raise QvggtError(f"scene objects: expected 1 <= min <= max, got {self.objects}")

    @property
    def azimuth_window(self) -> float:
        """Degrees of the arc that holds all cameras of a scene."""
        return WINDOWS[self.family] if self.window is None else self.window


def rich(height: int = 140, width: int = 140, frames: int = 16) -> SceneConfig:
    """Scenes like "random", with twice the patterns and as fine as 140 pixels can show: what `small` is trained on."""
    return SceneConfig(
        height=height,
        width=width,
        frames=frames,
        objects=(4, 9),
        object_texture=TextureRanges((0.2, 0.8), 0.15, (1.0, 4.0)),
        ground_texture=TextureRanges((0.08, 0.4), 0.22, (0.4, 2.0)),
        dome_texture=TextureRanges((0.03, 0.15), 0.3, (0.1, 0.5)),
        patterns=RICH_PATTERNS,
    )


def config_to_json(config: SceneConfig) -> dict[str, Any]:
    """JSON-ready dict with the generator version; tuples become lists.

    Patterns are told where they are not the first four: folders of before there were more stay what was asked for.
    """
    values = {k: v for k, v in asdict(config).items() if k != "patterns" or v != PATTERNS}
    return {"generator_version": GENERATOR_VERSION, **json.loads(json.dumps(values))}


def config_from_json(data: dict[str, Any]) -> SceneConfig:
    """Inverse of `config_to_json`; QvggtError on another generator version or an unknown key."""
    if data.get("generator_version") != GENERATOR_VERSION:
        raise QvggtError(
            f"scene config: expected generator_version {GENERATOR_VERSION}, got {data.get('generator_version')!r}; "
            "render the scenes again"
        )
    values = {k: v for k, v in data.items() if k != "generator_version"}
    return from_mapping(SceneConfig, values, "scene config", advice="remove it or render the scenes again")


@dataclass(frozen=True)
class Texture:
    """Solid (3-D) texture: two colours chosen by a hard pattern, plus three sine waves.

    directions float32 [6,3] cycles/unit: rows 0-2 waves, rows 3-5 pattern axes; phases [6] in cycles;
    amplitudes [3,3] (wave, RGB); colours [2,3].
    """

    pattern: Pattern
    colours: Array
    directions: Array
    phases: Array
    amplitudes: Array


@dataclass(frozen=True)
class Scene:
    """One world and its cameras.

    K objects, arrays over objects: is_box bool [K], centres [K,3], half [K,3] (box half extents, or the radius three
    times), yaw [K] radians. `textures` has one entry per object. dome None = the analytic room dome.
    light: unit vector towards the light. fov: degrees, longer side. extrinsics float64 [F,3,4] OpenCV
    camera-from-world.
    """

    seed: int
    is_box: Array
    centres: Array
    half: Array
    yaw: Array
    textures: tuple[Texture, ...]
    ground: Texture
    dome: Texture | None
    dome_radius: float
    light: Array
    ambient: float
    diffuse_gain: float
    fov: float
    extrinsics: Array


def sample_scene(config: SceneConfig, seed: int) -> Scene:
    """The scene of `seed`: the same on every call, independent of the image size (spec/tiny_model.md section 1)."""
    rng = np.random.default_rng([GENERATOR_VERSION, seed])
    room = config.family == "room"
    objects = _sample_objects(config, rng)
    textures = tuple(_sample_texture(config.object_texture, config.patterns, rng) for _ in objects[0])
    ground_rng = np.random.default_rng(_ROOM_GROUND_SEED) if room else rng
    ground = _sample_texture(config.ground_texture, config.patterns, ground_rng, planar=True)
    if room:
        ground = replace(ground, pattern="checker")
    dome = None if room else _sample_texture(config.dome_texture, config.patterns, rng)
    azimuth = _ROOM_LIGHT_AZIMUTH if room else rng.uniform(0, 2 * np.pi)
    light = _spherical(azimuth, np.radians(rng.uniform(*config.light_elevation)))
    ambient, fov = (float(rng.uniform(*ends)) for ends in (config.ambient, config.fov))
    lamp = light, ambient, config.diffuse_gain
    cameras = _sample_cameras(config, rng)
    return Scene(seed, *objects, textures, ground, dome, config.dome_radius, *lamp, fov, cameras)


def _sample_objects(config: SceneConfig, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    count = int(rng.integers(config.objects[0], config.objects[1] + 1))
    is_box = rng.random(count) < 0.5
    size = rng.uniform(*config.size, count)
    half = np.repeat(size[:, None], 3, axis=1)
    half[is_box, :2] = (size[:, None] * rng.uniform(*config.box_side, (count, 2)))[is_box]
    half[is_box, 2] = (size * rng.uniform(*config.box_height, count))[is_box] / 2
    yaw = rng.uniform(0, 2 * np.pi, count)
    ground_xy = np.zeros((count, 2))
    for k in range(count):
        for _ in range(30):  # a crowded disc: the last try stands, touching objects are still valid geometry
            radius, angle = config.disc_radius * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
            ground_xy[k] = radius * np.cos(angle), radius * np.sin(angle)
            gaps = np.linalg.norm(ground_xy[:k] - ground_xy[k], axis=1)
            if np.all(gaps > config.separation * (size[:k] + size[k])):
                break
    centres = np.concatenate([ground_xy, half[:, 2:]], axis=1)  # every object stands on the ground
    return is_box, centres, half, yaw


def _sample_texture(
    ranges: TextureRanges, patterns: tuple[Pattern, ...], rng: np.random.Generator, planar: bool = False
) -> Texture:
    pattern = patterns[int(rng.integers(len(patterns)))]
    waves = rng.standard_normal((3, 3))
    axes = rng.standard_normal((3, 3))
    if planar:  # a wave along z would be one flat colour on the ground
        waves[:, 2] = axes[:, 2] = 0
        axes[2] = 0, 0, 1
    waves *= (rng.uniform(*ranges.low, 3) / np.linalg.norm(waves, axis=1))[:, None]
    axes = np.linalg.qr(axes.T)[0].T * rng.uniform(*ranges.pattern)
    phases = rng.random(6)
    if planar:
        phases[5] = 0.25  # sin = 1: the third axis of a checkerboard must not switch on the plane
    return Texture(
        pattern=pattern,
        colours=np.stack([_sample_colour(rng), _sample_colour(rng)]).astype(np.float32),
        directions=np.concatenate([waves, axes]).astype(np.float32),
        phases=phases.astype(np.float32),
        amplitudes=(ranges.amplitude * rng.standard_normal((3, 3))).astype(np.float32),
    )


def _sample_colour(rng: np.random.Generator) -> Array:
    """RGB of a random hue with saturation and value in U(0.35, 1)."""
    hue, saturation, value = rng.random(), rng.uniform(0.35, 1), rng.uniform(0.35, 1)
    # piecewise-linear hue wheel, one phase per channel
    ramp = np.abs((hue * 6 + np.array([3.0, 1.0, 5.0])) % 6 - 3) - 1
    return np.asarray(value * (1 - saturation + saturation * np.clip(ramp, 0, 1)))


def _sample_cameras(config: SceneConfig, rng: np.random.Generator) -> Array:
    frames, window = config.frames, np.radians(config.azimuth_window)
    start = rng.uniform(0, 2 * np.pi) if config.family == "random" else 0.0
    slots = (np.arange(frames) + rng.uniform(0.1, 0.9, frames)) / frames - 0.5
    azimuth = start + window * rng.permutation(slots)
    radius = rng.uniform(*config.orbit) * rng.uniform(*config.orbit_jitter, frames)
    elevation = rng.uniform(*config.elevation) + config.elevation_std * rng.standard_normal(frames)
    elevation = np.radians(np.clip(elevation, *config.elevation_clip))
    eyes = radius[:, None] * _spherical(azimuth, elevation) + np.array([0.0, 0.0, config.eye_lift])
    targets = np.asarray(config.target) + np.asarray(config.target_std) * rng.standard_normal((frames, 3))
    return look_at(eyes, targets, np.radians(config.roll_std) * rng.standard_normal(frames))


def _spherical(azimuth: Array | float, elevation: Array | float) -> Array:
    """Unit vectors [...,3]; both angles in radians, elevation above the ground plane."""
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1)


def look_at(eyes: Array, targets: Array, roll: Array) -> Array:
    """OpenCV camera-from-world [F,3,4] (x right, y down, z forward) of cameras at `eyes` [F,3] facing `targets` [F,3].

    roll [F] radians turns each camera about its own viewing axis; world z is up.
    """
    forward = targets - eyes
    forward = forward / np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, np.array([0.0, 0.0, 1.0]))
    right = right / np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    rotation = np.stack([cos * right + sin * down, cos * down - sin * right, forward], axis=1)
    translation = -np.einsum("fij,fj->fi", rotation, eyes)
    return np.concatenate([rotation, translation[:, :, None]], axis=2)
