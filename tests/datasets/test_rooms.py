"""7-Scenes and Neural RGBD readers on generated rooms written in the exact layouts, their images and truth."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from room_data import HEIGHT, WIDTH, room, surface_distance, world_from_camera, write_nrgbd, write_seven_scenes

from qvggt import QvggtError
from qvggt.data.depth_png import read_millimetres
from qvggt.data.frame_list import FrameList
from qvggt.data.nrgbd import read_nrgbd
from qvggt.data.registry import Question
from qvggt.data.seven_scenes import read_seven_scenes
from qvggt.eval.ground_truth import ImagePlan, plan_images, resize_depth
from qvggt.eval.harness import Truth

FOCAL = {"7scenes": 525.0, "nrgbd": 554.2562584220408}


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """Two sequences of chess (the second with raw depth only) and a stray folder."""
    root = tmp_path_factory.mktemp("seven")
    made = [room(FOCAL["7scenes"], 3, seed) for seed in (3, 4)]
    write_seven_scenes(root, "chess", 3, made[0][1])
    write_seven_scenes(root, "chess", 5, made[1][1], kinds=("raw",))
    (root / "notes").mkdir()
    return root, made


@pytest.fixture(scope="module")
def neural(tmp_path_factory):
    root = tmp_path_factory.mktemp("nrgbd")
    made = room(FOCAL["nrgbd"], 4, 9)
    write_nrgbd(root, "breakfast", made[1], lost=(1,))
    return root, made


def test_seven_scenes(seven):
    root, made = seven
    found = read_seven_scenes(Question(root, stride=2))
    assert [s.key for s in found] == ["chess/seq-03", "chess/seq-05"]
    assert [s.frame_indices for s in found] == [(0, 2), (0, 2)]
    for sequence, (_, views) in zip(found, made, strict=True):
        assert np.allclose(sequence.extrinsics, views.extrinsics[::2], atol=1e-8)
        assert np.allclose(sequence.intrinsics, views.intrinsics[::2])
        assert sequence.extrinsics.dtype == np.float64
    assert [p.name for p in found[0].depth_paths] == ["frame-000000.depth.proj.png", "frame-000002.depth.proj.png"]
    assert [p.name for p in found[1].depth_paths] == ["frame-000000.depth.png", "frame-000002.depth.png"]
    assert "depth.proj.png (registered to colour) for 1 sequences" in found.notes[0]
    assert "not comparable with numbers from depth.proj.png" in found.notes[1]


def test_raw_depth_on_request_and_proj_insisted_on(seven):
    root, _ = seven
    raw = read_seven_scenes(Question(root, stride=1, depth="raw"))
    assert all(path.name.endswith("0.depth.png") for path in (raw[0].depth_paths[0], raw[1].depth_paths[0]))
    assert len(raw.notes) == 1
    with pytest.raises(QvggtError, match=r"frame-000000.depth.proj.png: no such file"):
        read_seven_scenes(Question(root, stride=1, depth="proj"))


def test_nrgbd(neural):
    root, (_, views) = neural
    found = read_nrgbd(Question(root, stride=1))
    (sequence,) = found
    assert sequence.key == "breakfast/all"
    assert sequence.frame_indices == (0, 2, 3)  # frame 1 was lost: left out, no identity in its place
    assert found.notes == ("1 frames are left out: their pose is no camera (not finite, or no rotation)",)
    assert np.allclose(sequence.extrinsics, views.extrinsics[[0, 2, 3]], atol=1e-12)
    assert np.allclose(sequence.intrinsics, views.intrinsics[0])
    assert read_nrgbd(Question(root, stride=100))[0].frame_indices == (0, 2)  # half of them apart at most


def test_limits_and_stored_frames(seven):
    root, _ = seven
    one = read_seven_scenes(Question(root, stride=1, frames=2, max_sequences=1, categories=("chess",)))
    assert one.frame_list().frames == {"chess/seq-03": (0, 1)}
    stored = FrameList({"chess/seq-05": (2, 0)})
    again = read_seven_scenes(Question(root), stored)
    assert [(s.key, s.frame_indices) for s in again] == [("chess/seq-05", (2, 0))]
    assert again.skip_counts() == {"not in frame list": 1}
    with pytest.raises(QvggtError, match="frame 7 is not on disk"):
        read_seven_scenes(Question(root), FrameList({"chess/seq-03": (0, 7)}))
    assert "root" not in one.frame_list().config


@pytest.mark.parametrize("size", [(392, 518), (56, 70), (70, 70)])
def test_truth_lies_on_the_surfaces(seven, neural, size):
    """Unprojected with the cameras of the resized images, the stored depth is on the scene it was rendered from."""
    (root, made), (other, (scene, views)) = seven, neural
    pairs = [
        (read_seven_scenes(Question(root, stride=2))[0], made[0][0], made[0][1].extrinsics[0]),
        (read_nrgbd(Question(other, stride=2))[0], scene, views.extrinsics[0]),
    ]
    plan = ImagePlan(size[1], size, room=True)
    for sequence, shape, first in pairs:
        images, resizes = plan.load(sequence.image_paths, sequence.intrinsics)
        truth = Truth.of(sequence, resizes, *size)
        assert images.shape[2:] == truth.depth.shape[1:] == size
        points = truth.points[truth.depth > 0]
        pose = world_from_camera(first[None])[0]
        gap = surface_distance(shape, points @ pose[:3, :3].T + pose[:3, 3])
        assert np.mean(truth.depth > 0) > 0.95
        # half a stored pixel beside the ray, on slanted surfaces; half a pixel of the conventions would be 4 mm more
        assert np.median(gap) < 0.0015
        assert np.quantile(gap, 0.95) < 0.012


def test_images_are_cropped_and_scaled_as_published(tmp_path):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, WIDTH // 2 :, 0] = 255
    image[HEIGHT // 2 :, :, 1] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    matrix = np.array([[[525.0, 0, 320], [0, 525, 240], [0, 0, 1]]])
    pixels, (resize,) = ImagePlan(518, (392, 518), room=True).load([tmp_path / "a.png"], matrix)
    assert pixels.shape == (1, 3, 392, 518)
    assert (resize.scale_x, resize.scale_y) == (522 / 640, 392 / 480)
    assert (resize.offset_x, resize.offset_y) == (-2, 0)
    assert (pixels[0, 0, :, :257] < 0.2).all()
    assert (pixels[0, 0, :, 261:] > 0.8).all()
    # a principal point off the centre: the window is centred on it
    matrix[0, :2, 2] = 300, 200
    _, (resize,) = ImagePlan(56, (42, 56), room=True).load([tmp_path / "a.png"], matrix)
    centre = resize.matrix() @ [300, 200, 1]
    assert centre[:2] == pytest.approx([28, 21], abs=1)
    matrix[0, 0, 2] = 700
    with pytest.raises(QvggtError, match="around its principal point"):
        ImagePlan(56, (42, 56), room=True).load([tmp_path / "a.png"], matrix)


def test_a_room_on_a_square(tmp_path):
    """Padded, the pixels of the protocol lie in the middle, and no truth on the white around them."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 200, (HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "a.png")
    matrix = np.array([[[525.0, 0, 330], [0, 525, 200], [0, 0, 1]]])
    plain, (before,) = ImagePlan(70, (56, 70), room=True).load([tmp_path / "a.png"], matrix)
    images, (resize,) = ImagePlan(70, (70, 70), room=True, fit="pad").load([tmp_path / "a.png"], matrix)
    assert np.array_equal(images[:, :, 7:63], plain)
    assert (images[:, :, :7] == 1).all()
    assert (images[:, :, 63:] == 1).all()
    inside = np.zeros((70, 70), bool)
    inside[7:63] = True
    assert np.array_equal(resize.inside(70, 70), inside)
    depth = rng.random((HEIGHT, WIDTH)).astype(np.float32) + 1  # of the whole image, also where the window is not
    moved = resize_depth(depth, resize, 70, 70)
    assert np.array_equal(moved[7:63], resize_depth(depth, before, 56, 70))
    assert np.array_equal(moved > 0, inside)
    assert np.array_equal(resize.matrix(), [[1, 0, 0], [0, 1, 7], [0, 0, 1]] @ before.matrix())


def test_the_published_sizes_and_one_that_crashed_there():
    assert plan_images([], 518, room=True).exact == (392, 518)
    assert plan_images([], 224, room=True).describe() == {"mode": "room", "height": 168, "width": 224}
    with pytest.raises(QvggtError, match="multiple of 14, got 512; 504 would do"):
        plan_images([], 512, room=True)


def test_depth_is_millimetres_with_holes(tmp_path):
    stored = np.array([[0, 1, 1000], [10000, 10001, 65535]], np.uint16)
    Image.fromarray(stored).save(tmp_path / "d.png")
    assert np.array_equal(read_millimetres(tmp_path / "d.png"), np.array([[0, 0.001, 1], [10, 0, 0]], np.float32))
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(QvggtError, match="16-bit greyscale"):
        read_millimetres(tmp_path / "rgb.png")


def test_broken_seven_scenes(seven, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(seven[0], root)
    folder = root / "chess"
    with pytest.raises(QvggtError, match="root is not a folder"):
        read_seven_scenes(Question(tmp_path / "none"))
    with pytest.raises(QvggtError, match=r"expected folders that hold TestSplit.txt"):
        read_seven_scenes(Question(folder))
    with pytest.raises(QvggtError, match=r"no such scene with a TestSplit.txt; present: chess"):
        read_seven_scenes(Question(root, categories=("fire",)))
    pose = folder / "seq-03" / "frame-000000.pose.txt"
    text = pose.read_text()
    for content, message in (
        ("1 2 3\n", "lines of four numbers"),
        ("a b c d\n" * 4, "lines of four numbers"),
        (text + text, "expected a 4x4 matrix, got 8 lines"),
    ):
        pose.write_text(content)
        with pytest.raises(QvggtError, match=message) as caught:
            read_seven_scenes(Question(root, stride=1))
        assert str(pose) in str(caught.value)
    for content in ("2 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "-1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "0 0 0 0\n" * 4):
        pose.write_text(content)
        found = read_seven_scenes(Question(root, stride=1))
        assert 0 not in found[0].frame_indices
        assert "frames are left out: their pose is no camera" in found.notes[0]
    pose.write_text(text)
    (folder / "seq-05" / "frame-000001.color.png").unlink()  # then two frames are left of it
    assert read_seven_scenes(Question(root, stride=1))[1].frame_indices == (0, 2)
    (folder / "seq-05" / "frame-000002.depth.png").unlink()
    with pytest.raises(QvggtError, match=r"frame-000002.depth.png: no such file"):
        read_seven_scenes(Question(root, stride=1))
    shutil.rmtree(folder / "seq-05")
    assert read_seven_scenes(Question(root, stride=1)).skip_counts() == {"folder missing": 1}
    with pytest.raises(QvggtError, match=r"no usable sequence \(1 folder missing, 1 too few frames\)"):
        read_seven_scenes(Question(root, stride=3))
    (folder / "TestSplit.txt").write_text("sequence3\nthe fifth\n")
    with pytest.raises(QvggtError, match="expected lines such as sequence1, got 'the fifth'"):
        read_seven_scenes(Question(root))


def test_broken_nrgbd(neural, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(neural[0], root)
    poses = root / "breakfast" / "poses.txt"
    lines = poses.read_text().splitlines()
    poses.write_text("\n".join(lines[:-4]))
    with pytest.raises(QvggtError, match="expected four lines for each of 4 frames, got 12"):
        read_nrgbd(Question(root))
    poses.write_text("\n".join(["nan nan nan nan"] * 16))
    with pytest.raises(QvggtError, match="1 too few frames"):
        read_nrgbd(Question(root))
    for bad in ({"stride": 0}, {"frames": 1}, {"max_sequences": 0}):
        with pytest.raises(QvggtError, match=r"(rooms|stride|max_sequences): expected"):
            read_nrgbd(Question(root, **bad))
