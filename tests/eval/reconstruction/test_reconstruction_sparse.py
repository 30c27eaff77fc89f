"""COLMAP models with real tracks: pycolmap's own bundle adjustment refines what was written, and the error falls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from true_runner import Shoot, TrueRunner

from qvggt.data.synthetic import render as renderer
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.errors import QvggtError
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.reconstruction.colmap import BINARY, Views, check_one_size, one_camera, write_colmap
from qvggt.eval.reconstruction.frames import load_frames
from qvggt.eval.reconstruction.passes import Pass
from qvggt.eval.reconstruction.scene import reconstruct
from qvggt.eval.reconstruction.sparse import matched_model, tracked_model
from qvggt.eval.reconstruction.tracks import Tracks, pixels, to_source

pycolmap = pytest.importorskip("pycolmap", reason="qvggt[reconstruct] is not installed")
HEIGHT, WIDTH, COUNT = 180, 240, 4


@pytest.fixture(scope="module")
def close(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A scene photographed from places near each other, as features need it: its scene, frames and views."""
    folder = tmp_path_factory.mktemp("close")
    scene = sample_scene(SceneConfig(frames=COUNT, window=12.0), 7)
    size, paths = SceneConfig(height=HEIGHT, width=WIDTH), []
    for index in range(COUNT):
        one = replace(scene, extrinsics=scene.extrinsics[index : index + 1])
        paths.append(folder / f"view{index}.png")
        Image.fromarray(renderer.render(one, size).images[0]).save(paths[-1])
    taken = Shoot(scene, paths, [(HEIGHT, WIDTH)] * COUNT)
    frames = load_frames(paths, ImagePlan(70))
    made, _ = reconstruct(TrueRunner(taken, frames), frames, [Pass(0, COUNT, 0)])
    names = [path.name for path in paths]
    views = Views(names, made.extrinsics, made.source_intrinsics(frames.resizes), frames.resizes)
    return made, frames, views, folder


def off(views: Views) -> Views:
    """The same cameras, a little wrong, as predicted ones are."""
    rng = np.random.default_rng(0)
    extrinsics = views.extrinsics.copy()
    extrinsics[1:, :, 3] += rng.normal(0, 0.01, (COUNT - 1, 3))
    intrinsics = views.intrinsics.copy()
    intrinsics[:, [0, 1], [0, 1]] *= 1.01
    return replace(views, extrinsics=extrinsics, intrinsics=intrinsics)


def adjusted(folder: Path) -> tuple[float, float]:
    """Mean reprojection error of the written model, before and after pycolmap's bundle adjustment."""
    model = pycolmap.Reconstruction(str(folder / BINARY))
    before = model.compute_mean_reprojection_error()
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    pycolmap.bundle_adjustment(model, options)
    model.update_point_3d_errors()
    return before, model.compute_mean_reprojection_error()


@pytest.mark.parametrize("shared", [False, True])
def test_matched_features_can_be_adjusted(
    shared: bool, close: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, _, views, images = close
    views = one_camera(off(views)) if shared else off(views)
    model = matched_model(views, images)
    write_colmap(tmp_path, model)
    assert capfd.readouterr().err == ""  # COLMAP's own talk stays inside
    assert model.num_cameras() == (1 if shared else COUNT)
    assert model.num_points3D() > 20
    assert model.compute_mean_track_length() > 2
    names = {image.name: image.cam_from_world().matrix() for image in model.images.values()}
    for name, pose in zip(views.names, views.extrinsics, strict=True):
        assert np.allclose(names[name], pose, atol=1e-6)  # the cameras are those given
    before, after = adjusted(tmp_path)
    assert 0 < after < before < 3


def test_tracks_of_a_head_can_be_adjusted(close: Any, tmp_path: Path) -> None:
    made, frames, views, _ = close
    rng = np.random.default_rng(1)
    row, column = (a.ravel() for a in np.mgrid[2:50:6, 2:68:6])
    points = made.points[0, row, column].astype(np.float64)
    local = np.einsum("fij,nj->fni", views.extrinsics[:, :, :3], points) + views.extrinsics[:, None, :, 3]
    places = np.einsum("fij,fnj->fni", views.intrinsics, local)
    places = places[..., :2] / places[..., 2:] + rng.normal(0, 0.2, (COUNT, len(points), 2))
    seen = np.ones(places.shape[:2], np.float32)
    seen[1:, 0] = 0  # seen by the first image alone
    seen[2, 1] = 0.2
    tracks = Tracks(places.astype(np.float32), seen, np.ones_like(seen))
    colours = frames.pixels[0, :, row, column]
    kept = np.ones(len(points), bool)
    kept[2] = False
    model = tracked_model(off(views), tracks, points, colours, kept)
    lengths = [point.track.length() for point in model.points3D.values()]
    assert max(lengths) == COUNT
    assert min(lengths) >= 2
    assert len(lengths) <= len(points) - 2
    for point in model.points3D.values():  # every element of a track is an observation of the point
        for element in point.track.elements:
            spot = model.images[element.image_id].points2D[element.point2D_idx]
            assert model.points3D[spot.point3D_id].xyz.tolist() == point.xyz.tolist()
    write_colmap(tmp_path, model)
    before, after = adjusted(tmp_path)
    assert after < 0.5 < before


def test_pixels_of_places_are_those_they_came_from(close: Any) -> None:
    _, frames, _, _ = close
    resize = frames.resizes[0]
    x, y = pixels(to_source(np.array([[3.5, 7.5], [0.0, 0.0], [69.9, 20.2]]), resize), resize, frames.size)
    assert (x.tolist(), y.tolist()) == ([3, 0, 69], [7, 0, 20])


def test_a_picture_that_colmap_cannot_read_takes_no_part(close: Any, tmp_path: Path) -> None:
    _, _, views, images = close
    for name in views.names:
        (tmp_path / name).write_bytes((images / name).read_bytes())
    (tmp_path / views.names[2]).write_bytes(b"no picture")
    model = matched_model(views, tmp_path)
    found = {image.name: image.num_points3D for image in model.images.values()}
    assert found.pop(views.names[2]) == 0
    assert min(found.values()) > 10


def test_one_camera_is_the_median_and_needs_one_size(close: Any, truth: Any) -> None:
    _, _, views, _ = close
    odd = views.intrinsics.copy()
    odd[0, 0, 0] *= 3
    assert np.allclose(one_camera(replace(views, intrinsics=odd)).intrinsics, views.intrinsics, rtol=0.02)
    check_one_size(views.names, views.resizes)
    with pytest.raises(QvggtError, match=r"--shared-camera: expected images of one size, got 128x96 \(view3.png\)"):
        check_one_size([path.name for path in truth.taken.paths], truth.frames.resizes)
