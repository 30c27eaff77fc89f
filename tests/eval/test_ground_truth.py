"""Depth follows the pixels of its image through every resize; one preprocessing for all candidates."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qvggt import QvggtError
from qvggt.data.depth_png import read_depth, write_depth
from qvggt.data.image_file import read_rgb
from qvggt.data.images import Resize, load_images_exact, load_images_tracked
from qvggt.eval.ground_truth import ImagePlan, plan_images, resize_depth, sequence_depth


def candidate(label="c", size=None, native=None):
    sizes = size if isinstance(size, list) else [] if size is None else [size]
    return SimpleNamespace(label=label, sizes=tuple(sizes), native_size=native)


def ramp(height, width):
    return np.arange(1, 1 + height * width, dtype=np.float32).reshape(height, width)


def test_identity_moves_nothing():
    depth = ramp(14, 28)
    assert np.array_equal(resize_depth(depth, Resize(1, 1, 0, 0, 28, 14), 14, 28), depth)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_enlarging_by_a_whole_factor_repeats(factor, height, width):
    depth = ramp(height, width)
    resized = resize_depth(depth, Resize(factor, factor, 0, 0, width, height), factor * height, factor * width)
    assert np.array_equal(resized, depth.repeat(factor, 0).repeat(factor, 1))


def test_crop_and_padding():
    depth = ramp(4, 6)
    cropped = resize_depth(depth, Resize(1, 1, -2, -1, 6, 4), 2, 2)
    assert np.array_equal(cropped, depth[1:3, 2:4])
    padded = resize_depth(depth, Resize(1, 1, 1, 2, 6, 4), 8, 8)
    assert np.array_equal(padded[2:6, 1:7], depth)
    assert padded.sum() == depth.sum()


def test_a_coarser_map_covers_the_same_view():
    depth = ramp(2, 3)
    assert np.array_equal(resize_depth(depth, Resize(1, 1, 0, 0, 6, 4), 4, 6), depth.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 90), (56, 56)])
def test_depth_lands_where_the_image_does(tmp_path, width, height):
    """An image whose blue channel is its depth: after any preprocessing both still agree."""
    depth = np.zeros((height, width), np.float32)
    depth[: height // 2, : width // 3] = 100
    depth[height // 2 :, width // 2 :] = 200
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = depth
    Image.fromarray(pixels).save(tmp_path / "i.png")
    for images, resizes in (
        load_images_exact([tmp_path / "i.png"], 56, 28),
        load_images_tracked([tmp_path / "i.png"], "crop", 112),
    ):
        seen = 255 * images[0, 2].numpy()
        moved = resize_depth(depth, resizes[0], *seen.shape)
        apart = np.abs(seen - moved) > 60  # interpolation blurs edges
        assert apart.mean() < 0.08
        assert len(np.unique(moved)) >= 2


def test_sequence_depth_with_gaps(tmp_path):
    write_depth(tmp_path / "d.png", np.full((4, 4), 2.0))
    resizes = [Resize(1, 1, 0, 0, 4, 4)] * 2
    depth = sequence_depth(
        SimpleNamespace(depth_paths=(None, tmp_path / "d.png"), depth_reader=read_depth), resizes, 4, 4
    )
    assert (depth[0] == 0).all()
    assert (depth[1] == 2).all()
    assert sequence_depth(SimpleNamespace(depth_paths=(None, None), depth_reader=read_depth), resizes, 4, 4) is None


def test_a_fixed_size_decides_for_all():
    plan = plan_images([candidate(native=518), candidate(size=(42, 56)), candidate(size=(42, 56))])
    assert plan == ImagePlan(56, (42, 56))
    assert plan.describe() == {"mode": "exact", "height": 42, "width": 56}


def test_native_size_then_518():
    assert plan_images([candidate(native=70), candidate(native=518)]).describe() == {"mode": "crop", "width": 70}
    assert plan_images([candidate()]).width == 518
    assert plan_images([candidate(native=70)], 140).width == 140


def test_each_image_goes_to_the_size_of_its_shape(tmp_path):
    plan = plan_images(
        [candidate(size=[(56, 56), (28, 56), (56, 28)]), candidate(), candidate(size=[(28, 56), (56, 56)])]
    )
    assert (plan.exact, plan.others) == ((56, 56), ((28, 56),))  # those that all can take, in the first one's order
    assert plan.describe() == {"mode": "exact", "height": 56, "width": 56, "others": [[28, 56]]}
    assert [plan.chosen([s]).exact for s in ((60, 60), (64, 40), (90, 40), (40, 90))] == [
        (56, 56), (28, 56), (28, 56), (56, 56),
    ]  # fmt: skip
    assert plan.chosen([(60, 60), (60, 60), (90, 40)]).exact == (56, 56)
    Image.new("RGB", (96, 48)).save(tmp_path / "wide.jpg")
    assert plan.load([tmp_path / "wide.jpg"])[0].shape == (1, 3, 28, 56)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (96, 48)).save(tmp_path / "wide.jpg", exif=exif)  # upright, a tall one
    assert plan.load([tmp_path / "wide.jpg"])[0].shape == (1, 3, 56, 56)
    assert plan.load([tmp_path / "wide.jpg"], read=read_rgb)[0].shape == (1, 3, 28, 56)
    assert plan_images([candidate(size=[(56, 56), (28, 70)])], 70).exact == (28, 70)
    rooms = plan_images([candidate(size=[(56, 56), (42, 56)])], room=True)
    assert rooms.chosen([]).exact == (42, 56)
    with pytest.raises(QvggtError, match="b takes only 42x56 or 70x70 images, a only 56x56 or 28x56: no fair"):
        plan_images([candidate("a", [(56, 56), (28, 56)]), candidate("b", [(42, 56), (70, 70)])])


@pytest.mark.parametrize("source", [(96, 54), (54, 96), (64, 48), (50, 50)])
def test_placed_is_what_loading_does(tmp_path, source):
    Image.new("RGB", source).save(tmp_path / "i.png")
    for fit in ("crop", "pad"):
        for plan in (ImagePlan(70, fit=fit), ImagePlan(70, (56, 70), fit=fit), ImagePlan(70, (70, 70), True, fit)):
            matrix = np.array([[[50.0, 0, source[0] / 2], [0, 50, source[1] / 2], [0, 0, 1]]])
            images, (resize,) = plan.load([tmp_path / "i.png"], matrix)
            placed, canvas = plan.placed(source)
            assert canvas == images.shape[:1:-1]
            if not (plan.room and fit == "pad"):  # there it is the size of the window
                assert np.abs(np.subtract(resize.size, placed)).max() <= 1


def test_sizes_that_do_not_go_together():
    with pytest.raises(QvggtError, match="b takes only 56x42 images, a only 42x56: no fair comparison"):
        plan_images([candidate("a", (42, 56)), candidate("b", (56, 42))])
    with pytest.raises(QvggtError, match="size 70: a takes only 42x56 images; leave the size out"):
        plan_images([candidate("a", (42, 56))], 70)
    assert plan_images([candidate("a", (42, 56))], 56).exact == (42, 56)
