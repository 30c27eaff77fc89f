"""Depth maps and camera descriptions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvggt.data.photos import Photo
from qvggt.eval.reconstruction.cameras import describe_cameras
from qvggt.eval.reconstruction.depth_maps import to_source, write_depth_maps
from qvggt.eval.reconstruction.folder import _join_note
from qvggt.eval.reconstruction.scene import Join


def names(truth: Any) -> list[str]:
    return [path.name for path in truth.taken.paths]


def test_depth_png_times_its_scale_is_the_depth(truth: Any, tmp_path: Path) -> None:
    inside = truth.frames.inside()
    kept = inside.copy()
    kept[:, :10] = False
    files = write_depth_maps(tmp_path / "d", names(truth), truth.scene, truth.frames.resizes, inside, kept)
    assert files.saturated < 0.002
    for index, name in enumerate(names(truth)):
        with Image.open(tmp_path / "d" / f"{name}.png") as image:
            assert image.mode == "I;16"
            stored = np.asarray(image).astype(np.float64)
        assert ((stored > 0) == kept[index]).all()
        good = kept[index] & (stored < 65535)
        assert np.abs(stored * files.scale - truth.runner.depth[index])[good].max() <= files.scale * 0.51
        with np.load(tmp_path / "d" / f"{name}.npz") as data:
            assert np.array_equal(data["depth"], truth.scene.depth[index])
            assert np.array_equal(data["keep"], kept[index])
            assert np.allclose(data["intrinsics"], truth.runner.intrinsics[index], rtol=1e-5)
            assert set(data.files) == {"depth", "confidence", "inside", "keep", "intrinsics", "extrinsics"}


def test_depth_png_of_the_original_size(truth: Any, tmp_path: Path) -> None:
    inside = truth.frames.inside()
    arguments = (names(truth), truth.scene, truth.frames.resizes, inside, inside, "image")
    files = write_depth_maps(tmp_path / "d", *arguments)
    for index, (path, resize) in enumerate(zip(truth.taken.paths, truth.frames.resizes, strict=True)):
        with Image.open(path) as original, Image.open(tmp_path / "d" / f"{path.name}.png") as image:
            assert image.size == original.size
            stored = np.asarray(image) * files.scale
        x, y = resize.source_grid(*truth.frames.size)
        rows, columns = np.nonzero(inside[index])
        there = stored[y[rows].astype(int), x[columns].astype(int)]
        assert np.mean(np.abs(there - truth.runner.depth[index][rows, columns]) < 0.01) > 0.98


def test_no_finite_depth_is_no_reason_to_fail(truth: Any, tmp_path: Path) -> None:
    scene = replace(truth.scene, depth=np.full_like(truth.scene.depth, np.nan))
    inside = truth.frames.inside()
    assert write_depth_maps(tmp_path / "d", names(truth), scene, truth.frames.resizes, inside, inside).saturated == 0
    with Image.open(tmp_path / "d" / f"{names(truth)[0]}.png") as image:
        assert not np.asarray(image).any()


def test_to_source_inverts_a_crop() -> None:
    from qvggt.data.images import Resize

    values = np.arange(1, 5, dtype=np.uint16).reshape(2, 2)
    found = to_source(values, Resize(0.5, 0.5, 0.0, -1.0, 4, 8))  # 4x8 scaled to 2x4, rows 1 and 2 kept
    assert found[:, 0].tolist() == [0, 0, 1, 1, 3, 3, 0, 0]
    assert found[2].tolist() == [1, 1, 2, 2]


def test_cameras_json_projects_true_points(truth: Any) -> None:
    photos = []
    for path, (height, width) in zip(truth.taken.paths, truth.taken.sizes, strict=True):
        photos.append(Photo(path.name, path, width, height, str(path), orientation=6))
    described = json.loads(json.dumps(describe_cameras(photos, truth.scene, truth.frames.resizes)))
    assert set(described["conventions"]) >= {"axes", "world", "camera_from_world", "intrinsics", "network"}
    points = truth.runner.points()
    for index, camera in enumerate(described["cameras"]):
        resize = truth.frames.resizes[index]
        e, k = np.array(camera["camera_from_world"]), np.array(camera["intrinsics"])
        x, y = resize.source_grid(*truth.frames.size)
        pixel = (points[index, 40, 33] @ e[:, :3].T + e[:, 3]) @ k.T
        assert pixel[:2] / pixel[2] == pytest.approx([x[33], y[40]], abs=1e-2)
        assert camera["exif_orientation"] == 6
        assert camera["width"], camera["height"] == truth.taken.sizes[index][::-1]
        assert np.allclose(np.array(camera["centre"]) @ e[:, :3].T + e[:, 3], 0, atol=1e-9)
        longer = max(camera["fov_deg"])
        assert longer == pytest.approx(truth.taken.scene.fov, abs=0.5)


@pytest.mark.parametrize(("residual", "degrees", "poor"), [(0.01, 1.0, False), (0.2, 1.0, True), (0.01, 12.0, True)])
def test_a_poor_join_is_called_so(residual: float, degrees: float, poor: bool) -> None:
    note = _join_note(3, Join(4, 8, 2, 1.1, residual, residual, degrees, 0.01))
    assert "pass 3 joined on 2 images: scale 1.100" in note
    assert ("POOR" in note) is poor
