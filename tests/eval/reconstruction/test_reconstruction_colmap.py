"""What pycolmap reads back projects to the right pixels of the original images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from true_runner import depth_along

from qvggt.errors import QvggtError
from qvggt.eval.reconstruction.cloud import build_cloud, select
from qvggt.eval.reconstruction.colmap import BINARY, TEXT, Views, check_written, dense_model, write_colmap

pycolmap = pytest.importorskip("pycolmap", reason="the extra reconstruct is not installed")


@pytest.fixture(scope="module")
def folder(truth: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("colmap")
    inside = truth.frames.inside()
    cloud = build_cloud(truth.scene, select(truth.scene, inside, inside, 0), truth.frames.pixels).at_most(4000)
    intrinsics = truth.scene.source_intrinsics(truth.frames.resizes)
    names = [path.name for path in truth.taken.paths]
    views = Views(names, truth.scene.extrinsics, intrinsics, truth.frames.resizes)
    write_colmap(out, dense_model(views, cloud, truth.frames.size))
    return out


@pytest.fixture(scope="module", params=[BINARY, TEXT])
def model(request: pytest.FixtureRequest, folder: Path) -> Any:
    return pycolmap.Reconstruction(str(folder / request.param))


def test_what_is_in_it(truth: Any, model: Any) -> None:
    assert model.num_images() == model.num_cameras() == 4
    assert model.num_points3D() == 4000
    for number, image in model.images.items():
        path = truth.taken.paths[number - 1]
        with Image.open(path) as picture:
            assert (image.camera.width, image.camera.height) == picture.size
        assert image.name == path.name
        assert image.camera.model_name == "PINHOLE"


def test_focal_lengths_and_principal_points_keep_their_place(truth: Any, tmp_path: Path) -> None:
    inside = truth.frames.inside()
    few = build_cloud(truth.scene, select(truth.scene, inside, inside, 0), truth.frames.pixels).at_most(10)
    k = np.array([[[50.0, 0, 31], [0, 70, 22], [0, 0, 1]]])
    views = Views(["a.png"], truth.scene.extrinsics[:1], k, truth.frames.resizes[:1])
    write_colmap(tmp_path, dense_model(views, few, truth.frames.size))
    (camera,) = pycolmap.Reconstruction(str(tmp_path / BINARY)).cameras.values()
    assert camera.params.tolist() == [50, 70, 31, 22]
    assert (camera.focal_length_x, camera.principal_point_y) == (50, 22)


def test_every_point_projects_to_its_observation(model: Any) -> None:
    checked = 0
    for image in model.images.values():
        for place in image.points2D:
            point = model.points3D[place.point3D_id]
            assert np.abs(image.project_point(point.xyz) - place.xy).max() < 2e-3
            assert point.error < 5e-3
            checked += 1
    assert checked == 4000


def test_points_lie_on_the_true_surfaces(truth: Any, model: Any) -> None:
    """The ray of COLMAP's camera through the observation meets the scene at the point: cast anew, for every image."""
    for number, image in model.images.items():
        params = image.camera.params
        true = truth.runner.extrinsics[number - 1]
        e = image.cam_from_world().matrix()
        errors = []
        for place in image.points2D[::20]:
            # an image of one pixel, whose ray is that of the observation
            k = np.array([[params[0], 0, params[2] - place.xy[0]], [0, params[1], params[3] - place.xy[1]], [0, 0, 1]])
            depth = depth_along(truth.taken.scene, true, k, 1, 1)[0, 0]
            xyz = model.points3D[place.point3D_id].xyz
            errors.append(abs((e[2, :3] @ xyz + e[2, 3]) / depth - 1))
        assert np.median(errors) < 1e-5
        assert np.mean(np.array(errors) > 1e-3) < 0.03  # an edge of an object, hit or missed by a rounding error


def test_the_original_has_the_points_colour_there(truth: Any, model: Any) -> None:
    for number, image in model.images.items():
        with Image.open(truth.taken.paths[number - 1]) as picture:
            original = np.asarray(picture.convert("RGB"), np.float64)
        where = np.array([place.xy for place in image.points2D])
        colours = np.array([model.points3D[place.point3D_id].color for place in image.points2D], np.float64)

        def error(shift: float, where: Any = where, colours: Any = colours, original: Any = original) -> float:
            x, y = np.clip((where + shift).astype(int), 0, np.array(original.shape[1::-1]) - 1).T
            return float(np.median(np.abs(original[y, x] - colours)))

        assert error(0) < 8
        assert error(0) < 0.8 * min(error(3), error(-3))  # pixels of the original: less than two network pixels


@pytest.mark.parametrize("name", ["points3D", "images", "cameras"])
@pytest.mark.parametrize("kind", [BINARY, TEXT])
def test_a_truncated_model_is_noticed(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    """What a full disk leaves behind: pycolmap writes on without an error."""
    model = pycolmap.Reconstruction(str(folder / kind))
    copy = shutil.copytree(folder / kind, tmp_path / "copy")
    check_written(copy, model)
    file = copy / f"{name}.{'bin' if kind == BINARY else 'txt'}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(QvggtError, match="disk full"):
        check_written(copy, model)


def test_poses_are_those_of_the_scene(truth: Any, model: Any) -> None:
    for number, image in model.images.items():
        assert np.allclose(image.cam_from_world().matrix(), truth.scene.extrinsics[number - 1], atol=1e-6)
