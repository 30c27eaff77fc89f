"""ETH3D's layout: cameras of COLMAP's text files, and depth of distorted photographs seen through their lens."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mvs_data import FISHEYE, PINHOLE, fisheye_depth, small_views, wall_depth, write_eth3d

from qvggt.data import eth3d
from qvggt.data.colmap_text import Camera
from qvggt.data.eth3d import read_eth3d
from qvggt.data.frame_list import FrameList, draw_frames
from qvggt.data.registry import Question
from qvggt.errors import QvggtError

PIXEL = 0.02  # share of the wall's depth between a pixel's centre and its corner


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("eth3d")
    poses = small_views(5, 3, 4, 4)[1].extrinsics
    write_eth3d(root, "courtyard", poses)
    write_eth3d(root, "pipes", poses[:2])
    return root, poses


def test_photographs_and_cameras(made):
    root, poses = made
    found = read_eth3d(Question(root, frames=3, seed=4))
    (sequence,) = found
    drawn = draw_frames(4, "courtyard", "dslr", 5, 3)
    assert (sequence.key, sequence.frame_indices) == ("courtyard/dslr", drawn)
    assert [path.name for path in sequence.image_paths] == [f"DSC_{index:04d}.JPG" for index in drawn]
    np.testing.assert_allclose(sequence.extrinsics, poses[list(drawn)], atol=1e-12)
    np.testing.assert_array_equal(sequence.intrinsics[0], [[40, 0, 31], [0, 41, 19.5], [0, 0, 1]])
    assert found.skip_counts() == {"too few frames": 1}
    stored = read_eth3d(Question(root), FrameList({"pipes/dslr": (1, 0)}))
    assert [(s.key, s.frame_indices) for s in stored] == [("pipes/dslr", (1, 0))]
    with pytest.raises(QvggtError, match="pipes: expected indices below 2"):
        read_eth3d(Question(root), FrameList({"pipes/dslr": (1, 2)}))


@pytest.mark.parametrize("most", [2048, 31])
def test_depth_is_that_of_the_direction(made, most, monkeypatch):
    """Of a slanted wall, whose depth a wrong pixel would not have; the same where the map is thinned."""
    monkeypatch.setattr(eth3d, "MOST", most)
    (sequence,) = read_eth3d(Question(made[0], frames=3))
    depth = sequence.depth_reader(sequence.depth_paths[0])
    step = PINHOLE.width // depth.shape[1]
    assert depth.shape == (PINHOLE.height // step, PINHOLE.width // step)
    fx, fy, cx, cy = PINHOLE.focal_centre
    x, y = np.meshgrid((np.arange(depth.shape[1]) + 0.5) * step, (np.arange(depth.shape[0]) + 0.5) * step)
    u, v = (x - cx) / fx, (y - cy) / fy
    at_x, at_y = FISHEYE.project(u, v)
    unknown = (at_x < 20) & (at_y < 16)
    inside = (at_x >= 0) & (at_x < FISHEYE.width) & (at_y >= 0) & (at_y < FISHEYE.height)
    np.testing.assert_array_equal(depth > 0, inside & ~unknown)
    assert unknown.any()
    assert np.abs(depth / wall_depth(u, v) - 1)[depth > 0].max() < PIXEL
    plain = Camera(FISHEYE.model, FISHEYE.width, FISHEYE.height, (*FISHEYE.params[:4], *[0.0] * 8))
    wrong_x, wrong_y = plain.project(u, v)  # a lens whose distortion is not looked at
    wrong = fisheye_depth()[wrong_y.clip(0, 49).astype(int), wrong_x.clip(0, 71).astype(int)]
    assert np.abs(wrong / wall_depth(u, v) - 1)[depth > 0].max() > 2 * PIXEL


@pytest.mark.parametrize("camera", [FISHEYE, PINHOLE, Camera("SIMPLE_PINHOLE", 60, 40, (50.0, 30.0, 20.0))])
def test_lenses_are_those_of_colmap(camera: Camera) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    theirs = pycolmap.Camera(model=camera.model, width=camera.width, height=camera.height, params=camera.params)
    u, v = np.random.default_rng(0).uniform(-0.8, 0.8, (2, 50))
    u[0] = v[0] = 0
    expected = theirs.img_from_cam(np.stack([u, v, np.ones(50)], 1))
    np.testing.assert_allclose(np.stack(camera.project(u, v), 1), expected, rtol=1e-12)


def test_what_does_not_fit(made, tmp_path):
    root = shutil.copytree(made[0], tmp_path / "eth3d")
    scene = root / "courtyard"

    def read(frames: int) -> None:
        sequence = read_eth3d(Question(root, frames=frames, categories=("courtyard",)))[0]
        for path in sequence.depth_paths:
            sequence.depth_reader(path)

    def fails(*parts: str, frames: int = 5) -> None:
        with pytest.raises(QvggtError) as caught:
            read(frames)
        for part in parts:
            assert part in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)

    fails("no scene with 6 photographs", frames=6)
    depth = scene / "ground_truth_depth/dslr_images/DSC_0002.JPG"
    depth.write_bytes(depth.read_bytes()[:-4])
    fails("DSC_0002.JPG: expected 72x50 float32 values", "got 14396 bytes")
    depth.unlink()
    fails("DSC_0002.JPG: no such file; unpack courtyard_dslr_depth there")
    (scene / "images/dslr_images_undistorted/DSC_0002.JPG").unlink()
    fails("unpack courtyard_dslr_undistorted there")
    (scene / "dslr_calibration_jpg/images.txt").write_text("# nothing\n")
    fails("has no camera in dslr_calibration_undistorted or dslr_calibration_jpg")
    lens = scene / "dslr_calibration_jpg/cameras.txt"
    lens.write_text(lens.read_text().replace("THIN_PRISM_FISHEYE", "FULL_OPENCV"))
    fails("cameras.txt: expected COLMAP's text format, got FULL_OPENCV with 12 numbers; understood are")
    (scene / "dslr_calibration_undistorted/images.txt").write_text("1 2 3\n")
    fails("images.txt: expected COLMAP's text format")
    lens.unlink()
    Path(scene / "dslr_calibration_undistorted/images.txt").write_bytes(b"\xff\xfe")
    fails("images.txt: cannot be read (no text)")
