"""Distributions and camera conventions of the scene sampler."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt import QvggtError
from qvggt.data.synthetic.scene import (
    GENERATOR_VERSION,
    SceneConfig,
    config_from_json,
    config_to_json,
    look_at,
    rich,
    sample_scene,
)

SEEDS = st.integers(0, 2**40)


def equal(a, b):
    """Deep equality of nested dataclasses with arrays."""
    if dataclasses.is_dataclass(a):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(["random", "room"]))
def test_scene_stays_in_the_stated_ranges(seed, family):
    config = SceneConfig(family=family)
    scene = sample_scene(config, seed)
    assert 4 <= len(scene.is_box) <= 7
    assert np.all(np.linalg.norm(scene.centres[:, :2], axis=1) <= config.disc_radius)
    np.testing.assert_array_equal(scene.centres[:, 2], scene.half[:, 2])  # standing on the ground
    assert np.all((scene.half[~scene.is_box] >= 0.2) & (scene.half[~scene.is_box] <= 0.5))
    assert np.all(scene.half[scene.is_box][:, :2] >= 0.2 * 0.6)
    assert np.all(scene.half[scene.is_box][:, :2] <= 0.5)
    assert np.all(scene.half[scene.is_box][:, 2] <= 0.5 * 1.8 / 2)
    assert 45 <= scene.fov <= 65
    assert 0.35 <= scene.ambient <= 0.55
    elevation = np.degrees(np.arcsin(scene.light[2]))
    assert 30 <= elevation <= 65
    assert np.linalg.norm(scene.light) == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(["random", "room"]))
def test_cameras_orbit_in_one_window_and_look_at_the_objects(seed, family):
    config = SceneConfig(family=family)
    rotation, translation = np.split(sample_scene(config, seed).extrinsics, [3], axis=2)
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (8, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    eyes = -np.einsum("fji,fj->fi", rotation, translation[..., 0])
    orbit = np.linalg.norm(eyes - [0, 0, config.eye_lift], axis=1)
    assert np.all((orbit >= 2.6 * 0.85 - 1e-9) & (orbit <= 3.5 * 1.2 + 1e-9))
    azimuth = np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))
    gaps = np.diff(np.sort(azimuth % 360))
    wrap = 360 - np.ptp(azimuth % 360)
    assert 360 - max(gaps.max(), wrap) <= config.azimuth_window
    target = rotation @ np.array([0, 0, 0.35]) + translation[..., 0]
    assert np.all(target[:, 2] > 2)  # in front
    assert np.all(np.abs(target[:, :2] / target[:, 2:]) < 0.45)  # near the optical axis
    assert np.all(rotation[:, 1, 2] < 0)  # the camera's y axis points down
    if family == "room":
        assert np.all(np.abs(azimuth) <= 70)


def test_look_at_known_camera():
    # from (0, -2, 1) along +y: right = +x, down = -z, forward = +y
    extrinsic = look_at(np.array([[0.0, -2, 1]]), np.array([[0.0, 5, 1]]), np.zeros(1))[0]
    np.testing.assert_allclose(extrinsic[:, :3], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-15)
    np.testing.assert_allclose(extrinsic @ [0.5, 0, 1, 1], [0.5, 0, 2], atol=1e-15)
    # a quarter turn about the viewing axis: the camera's right is now the world's down
    rolled = look_at(np.array([[0.0, -2, 1]]), np.array([[0.0, 5, 1]]), np.array([np.pi / 2]))[0]
    np.testing.assert_allclose(rolled[:, :3], [[0, 0, -1], [-1, 0, 0], [0, 1, 0]], atol=1e-15)


def test_one_seed_is_one_world_at_every_size():
    small, large = SceneConfig(), SceneConfig(height=392, width=518)
    assert equal(sample_scene(small, 5), sample_scene(large, 5))


def test_random_family_shares_nothing_and_room_shares_the_room():
    a, b = (sample_scene(SceneConfig(), seed) for seed in (1, 2))
    for name in ("ground", "dome", "light", "extrinsics", "fov", "ambient", "centres"):
        assert not equal(getattr(a, name), getattr(b, name)), name
    a, b = (sample_scene(SceneConfig(family="room"), seed) for seed in (1, 2))
    assert equal(a.ground, b.ground)
    assert a.ground.pattern == "checker"
    assert a.dome is b.dome is None
    assert np.arctan2(a.light[1], a.light[0]) == pytest.approx(0.7)
    assert not equal(a.extrinsics, b.extrinsics)
    assert not equal(a.textures, b.textures)


def test_config_survives_json():
    config = SceneConfig(height=98, width=126, family="room", frames=3, window=33.0)
    for each in (config, rich()):
        assert config_from_json(json.loads(json.dumps(config_to_json(each)))) == each
    assert "patterns" not in config_to_json(config)  # as folders written before there were others have it


@pytest.mark.parametrize("change", [{"generator_version": GENERATOR_VERSION + 1}, {"colour": 1}])
def test_config_of_another_generator_is_refused(change):
    with pytest.raises(QvggtError, match="render the scenes again"):
        config_from_json({**config_to_json(SceneConfig()), **change})


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"family": "house"}, "family"),
        ({"height": 0}, "size"),
        ({"frames": 0}, "size"),
        ({"objects": (0, 3)}, "objects"),
        ({"patterns": ("none", "plaid")}, "plaid"),
    ],
)
def test_bad_config(values, word):
    with pytest.raises(QvggtError, match=word):
        SceneConfig(**values)
