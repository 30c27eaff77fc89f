"""DTU's layout: cameras, depth and scans of a generated scene, and files that do not fit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from mvs_data import MM, small_views, world_points, write_dtu, write_ply
from PIL import Image
from scipy.io import savemat

from qvggt.data.dtu import read_dtu, read_pfm
from qvggt.data.frame_list import FrameList
from qvggt.data.registry import Question
from qvggt.data.scan import read_ply
from qvggt.errors import QvggtError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """scan1 and scan2, the latter of no test split."""
    root = tmp_path_factory.mktemp("dtu")
    _, views = small_views(4, 3)
    for number in (1, 2):
        write_dtu(root, number, views)
    return root, views


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "dtu")


def test_a_scan(made):
    root, views = made
    (sequence,) = read_dtu(Question(root, stride=2))
    assert sequence.key == "scan1/all"
    assert sequence.frame_indices == (0, 2)
    assert [path.name for path in sequence.image_paths] == ["rect_001_3_r5000.png", "rect_003_3_r5000.png"]
    np.testing.assert_allclose(sequence.extrinsics, views.extrinsics[::2] * [1, 1, 1, MM])
    np.testing.assert_allclose(sequence.intrinsics, views.intrinsics[::2])
    depth = sequence.depth_reader(sequence.depth_paths[1])
    np.testing.assert_allclose(depth, MM * views.depth[2], rtol=1e-6)
    scan = sequence.scan.read()
    np.testing.assert_allclose(scan.points, world_points(views).reshape(-1, 3), rtol=1e-5, atol=1e-3)
    assert scan.seen.all()
    assert (scan.low < scan.points.min(0)).all()
    assert (scan.cell, *scan.plane) == (20, 0, 0, 1, 1000)


def test_which_scans_and_views(made):
    root, _ = made
    assert [s.category for s in read_dtu(Question(root, categories=("scan2", "scan1")))] == ["scan2", "scan1"]
    assert read_dtu(Question(root, frames=3))[0].frame_indices == (0, 1, 2)
    stored = read_dtu(Question(root, categories=("scan1", "scan2")), FrameList({"scan2/all": (3, 1)}))
    assert [(s.key, s.frame_indices) for s in stored] == [("scan2/all", (3, 1))]
    assert stored.skip_counts() == {"not in frame list": 1}
    with pytest.raises(QvggtError, match="scan1: view 9 is not on disk"):
        read_dtu(Question(root), FrameList({"scan1/all": (0, 9)}))
    with pytest.raises(QvggtError, match="no scan with 2 views"):
        read_dtu(Question(root, stride=4))


def test_without_scans_a_note_says_what_is_measured(copy):
    for name in ("Points", "ObsMask"):
        shutil.rmtree(copy / name)
    found = read_dtu(Question(copy))
    assert found[0].scan is None
    assert "the figures are not DTU's" in found.notes[0]


def test_larger_files_lie_beside_smaller_ones(copy):
    for name in ("Rectified", "Depths"):
        shutil.copytree(copy / name, copy / f"{name}_raw")
    (sequence,) = read_dtu(Question(copy))
    assert sequence.image_paths[0].parent == copy / "Rectified_raw" / "scan1"
    assert sequence.depth_paths[0].parent == copy / "Depths_raw" / "scan1"


def test_what_does_not_fit(copy):
    def read(**question) -> None:
        sequence = read_dtu(Question(copy, **question))[0]
        sequence.scan.read()
        sequence.depth_reader(sequence.depth_paths[0])

    def fails(*parts: str, **question) -> None:
        with pytest.raises(QvggtError) as caught:
            read(**question)
        for part in parts:
            assert part in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)

    fails("scan5: no such scene", categories=("scan5",))
    depth = copy / "Depths/scan1/depth_map_0000.pfm"
    depth.write_bytes(depth.read_bytes()[:-1])
    fails("depth_map_0000.pfm: expected a greyscale PFM")
    depth.write_bytes(b"PF" + depth.read_bytes()[2:])
    fails("kind b'PF'")
    ply = copy / "Points/stl/stl001_total.ply"
    ply.write_bytes(ply.read_bytes()[:-9])
    fails("stl001_total.ply: expected 12288 finite vertices, got 12287")
    ply.write_bytes(b"solid x")
    fails("stl001_total.ply: no PLY file")
    plane = copy / "ObsMask/Plane1.mat"
    savemat(plane, {"P": np.zeros(3)})
    fails("Plane1.mat: P: expected 4")
    plane.write_bytes(b"nonsense" * 40)
    fails("Plane1.mat: no readable MATLAB file")
    ply.unlink()
    fails("stl001_total.ply: no such file; unpack DTU's Points")
    camera = copy / "Cameras/00000000_cam.txt"
    text = camera.read_text()
    Image.new("RGB", (640, 512)).save(copy / "Rectified/scan1/rect_001_3_r5000.png")
    fails("its principal point (32, 24) is not of 640x512 images", "1600x1200")
    camera.write_text(text.replace("intrinsic", "inner"))
    fails("00000000_cam.txt: expected extrinsic")
    camera.write_text(text[:200])
    fails("00000000_cam.txt: expected extrinsic")
    (copy / "Depths/scan1/depth_map_0003.pfm").unlink()
    fails("depth_map_0003.pfm: no such file")


def test_pfm(tmp_path):
    depth = np.array([[1.5, np.nan, -1], [np.inf, 0, 7]], np.float32)
    for order, scale in (("<", -1), (">", 1)):
        (tmp_path / "d.pfm").write_bytes(f"Pf\n3 2\n{scale}\n".encode() + depth[::-1].astype(f"{order}f4").tobytes())
        np.testing.assert_array_equal(read_pfm(tmp_path / "d.pfm"), [[1.5, 0, 0], [0, 0, 7]])


def test_ply(tmp_path):
    points = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    write_ply(tmp_path / "b.ply", points)
    np.testing.assert_array_equal(read_ply(tmp_path / "b.ply"), points)
    rows = "".join(f"{r} {x} {y} {z}\n" for r, (x, y, z) in enumerate(points.tolist()))
    properties = "".join(f"property {kind}\n" for kind in ("uchar r", "double x", "double y", "double z"))
    header = f"ply\nformat ascii 1.0\nelement vertex 5\n{properties}"
    (tmp_path / "a.ply").write_text(f"{header}element face 1\nproperty list uchar int i\nend_header\n{rows}3 0 1 2\n")
    np.testing.assert_allclose(read_ply(tmp_path / "a.ply"), points)
    other = header.replace("vertex", "face")
    for content in ("ply\nformat ascii 1.0\n", "ply\nformat odd 1.0\nend_header\n", other):
        (tmp_path / "c.ply").write_text(content)
        with pytest.raises(QvggtError, match="no PLY file with vertices"):
            read_ply(tmp_path / "c.ply")
