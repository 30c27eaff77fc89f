from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvggt.eval.reconstruction.cloud import Cloud, build_cloud, select
from qvggt.eval.reconstruction.meshes import pyramid, write_glb, write_ply

trimesh = pytest.importorskip("trimesh", reason="the extra reconstruct is not installed")


@pytest.fixture(scope="module")
def cloud(truth: Any) -> Cloud:
    inside = truth.frames.inside()
    return build_cloud(truth.scene, select(truth.scene, inside, inside, 0), truth.frames.pixels)


@pytest.fixture(scope="module")
def glb(truth: Any, cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("glb") / "scene.glb"
    write_glb(path, cloud, truth.scene.extrinsics, truth.scene.intrinsics, truth.frames.size)
    return path


def gltf(path: Path) -> dict[str, Any]:
    """The JSON chunk of a GLB file, read without any library."""
    data = path.read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIIII", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), 0x4E4F534A)
    found: dict[str, Any] = json.loads(data[20 : 20 + size])
    return found


def test_ply_points_are_the_true_points(truth: Any, cloud: Cloud, tmp_path: Path) -> None:
    write_ply(tmp_path / "p.ply", cloud)
    back = trimesh.load(tmp_path / "p.ply")
    true = truth.runner.points()[truth.frames.inside()]
    assert np.abs(np.asarray(back.vertices) - true).max() < 1e-4
    assert np.array_equal(np.asarray(back.colors)[:, :3], cloud.colours)


def test_glb_points_are_the_true_points_with_y_up(truth: Any, glb: Path) -> None:
    scene = trimesh.load_scene(glb)
    points = np.asarray(scene.geometry["points"].vertices)
    true = truth.runner.points()[truth.frames.inside()]
    assert np.abs(points - true * [1, -1, -1]).max() < 1e-4
    # the generated world has z up and its cameras stand upright
    up = truth.runner.extrinsics[0, :, :3] @ [0, 0, 1]
    assert (up * [1, -1, -1])[1] > 0.7
    low, high = points[:, 1] < np.percentile(points[:, 1], 10), points[:, 1] > np.percentile(points[:, 1], 90)
    world = (true - truth.runner.extrinsics[0, :, 3]) @ truth.runner.extrinsics[0, :, :3]
    assert world[high, 2].mean() > world[low, 2].mean() + 1  # what is high in the file is high in the scene
    assert (points[truth_frame(truth) == 0][:, 2] < 0).all()  # before the first camera, which looks along -z


def truth_frame(truth: Any) -> np.ndarray:
    return np.nonzero(truth.frames.inside())[0]


def test_glb_nodes(glb: Path) -> None:
    described = gltf(glb)
    names = [node.get("name") for node in described["nodes"]]
    assert {"points", "camera_0001", "camera_0004"} <= set(names)
    modes = {mesh["name"]: {p["mode"] for p in mesh["primitives"]} for mesh in described["meshes"]}
    assert modes["points"] == {0}
    assert modes["camera_0001"] <= {1, 3}  # lines
    (points,) = (mesh["primitives"][0] for mesh in described["meshes"] if mesh["name"] == "points")
    assert "COLOR_0" in points["attributes"]
    assert "byteLength" in described["buffers"][0]
    assert "uri" not in described["buffers"][0]  # one file


def test_a_pyramid_looks_where_its_camera_looks(truth: Any) -> None:
    e, k = truth.scene.extrinsics[1], truth.scene.intrinsics[1]
    lines = pyramid(e, k, truth.frames.size, 0.5)
    centre = -e[:, :3].T @ e[:, 3]
    assert np.allclose(lines[:4, 0], centre)
    camera = lines[:4, 1] @ e[:, :3].T + e[:, 3]
    assert np.allclose(camera[:, 2], 0.5)
    pixels = camera @ k.T
    assert np.allclose((pixels / pixels[:, 2:])[:, :2], [[0, 0], [70, 0], [70, 70], [0, 70]])
