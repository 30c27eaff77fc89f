"""Preprocessing against the reference's stored pixels, fixed-size loading, and what a user sees on bad input."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from qvggt.data import image_file
from qvggt.data.image_file import image_size, read_rgb, read_upright, to_rgb
from qvggt.data.images import Resize, load_images, load_images_exact, load_images_tracked
from qvggt.errors import QvggtError

DATA = Path(__file__).parent.parent / "data" / "preprocess"
SINGLE = [
    *(("crop", name) for name in ("landscape.png", "portrait.png", "tall.png", "alpha.png", "small.png")),
    *(("pad", name) for name in ("landscape.png", "tall.png", "alpha.png")),
]

GRIDS = [(56, 14), (64, 16)]  # size, patch


@pytest.fixture(scope="module")
def golden() -> Mapping[str, NDArray[np.uint8]]:
    with np.load(DATA / "expected_uint8.npz") as file:
        return {name: file[name] for name in file.files}


def as_unit(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.tensor(pixels).float() / 255


def preprocess(image: Image.Image, mode: str = "crop", size: int = 518, patch: int = 14) -> torch.Tensor:
    """One image, [3, H, W]."""
    return load_images_tracked(["x"], mode, size, patch, read=lambda _: to_rgb(image))[0][0]  # type: ignore[arg-type]


def save(path: Path, width: int, height: int, color: tuple[int, int, int] = (10, 20, 30)) -> Path:
    Image.new("RGB", (width, height), color).save(path)
    return path


# --- as the reference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "name"), SINGLE)
def test_single_image_is_the_golden(golden: Mapping[str, NDArray[np.uint8]], mode: str, name: str) -> None:
    images = load_images([DATA / name], mode)  # type: ignore[arg-type]
    assert images.dtype == torch.float32
    expected = as_unit(golden[f"{mode}/{name}"])
    if (mode, name) == ("pad", "tall.png") and int(PIL.__version__.split(".")[0]) < 13:
        # older Pillow rounds this one resampling otherwise: 1.2 % of the values, by up to two grey levels
        difference = (images - expected).abs() * 255
        assert difference.max() < 2.5
        assert (difference > 0.5).float().mean() < 0.02
    else:
        assert torch.equal(images, expected)
    with Image.open(DATA / name) as image:
        assert torch.equal(preprocess(image, mode), images[0])


def test_mixed_shapes_are_padded_to_the_golden(golden: Mapping[str, NDArray[np.uint8]]) -> None:
    images = load_images([str(DATA / "landscape.png"), str(DATA / "alpha.png")])
    assert torch.equal(images, as_unit(golden["crop/mixed"]))


@pytest.mark.parametrize(
    ("width", "height", "crop", "pad"),
    [
        (640, 480, (392, 518), (392, 518)),
        (1920, 1080, (294, 518), (294, 518)),
        (1080, 1920, (518, 518), (518, 294)),
        (480, 640, (518, 518), (518, 392)),
    ],
)
def test_sizes_of_the_spec(width: int, height: int, crop: tuple[int, int], pad: tuple[int, int]) -> None:
    black = Image.new("RGB", (width, height))
    assert preprocess(black).shape == (3, *crop)
    padded = preprocess(black, "pad")
    assert padded.shape == (3, 518, 518)
    rows, columns = (padded[0] == 0).any(1), (padded[0] == 0).any(0)
    assert (int(rows.sum()), int(columns.sum())) == pad
    assert padded[0, ~rows].eq(1).all()
    assert padded[0, :, ~columns].eq(1).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["crop", "pad"]), st.sampled_from(GRIDS))
def test_any_shape_fits_the_patch_grid(width: int, height: int, mode: str, grid: tuple[int, int]) -> None:
    size, patch = grid
    pixels = preprocess(Image.new("RGB", (width, height)), mode, size, patch)
    assert pixels.shape[2] == size
    assert 0 < pixels.shape[1] <= size
    assert pixels.shape[1] % patch == 0


def test_half_patches_round_to_even() -> None:
    assert preprocess(Image.new("RGB", (56, 21)), size=56).shape == (3, 28, 56)  # 1.5 patches -> 2
    assert preprocess(Image.new("RGB", (56, 35)), size=56).shape == (3, 28, 56)  # 2.5 patches -> 2


def test_odd_padding_goes_to_the_bottom(tmp_path: Path) -> None:
    paths = [save(tmp_path / "flat.png", 21, 14, (0, 0, 0)), save(tmp_path / "square.png", 21, 21)]
    images, resizes = load_images_tracked(paths, size=21, patch=7)
    assert images[0, 0].eq(1).all(1).tolist() == [True] * 3 + [False] * 14 + [True] * 4
    assert resizes[0].offset_y == 3.0


def test_grey_and_palette_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "1", "LA"):
        path = tmp_path / f"{mode}.png"
        Image.new("RGB", (40, 30), (255, 255, 255)).convert(mode).save(path)
        assert load_images([path], size=28).shape == (1, 3, 28, 28)
        assert load_images([path], size=28).eq(1).all()


# --- the way back to source pixels --------------------------------------------------------------------------------


def test_tracked_resize_of_crop_and_batch_padding() -> None:
    names = ["landscape.png", "alpha.png", "portrait.png"]
    images, resizes = load_images_tracked([DATA / name for name in names])
    assert images.shape[2:] == (518, 518)
    assert resizes[0] == Resize(518 / 640, 392 / 480, 0.0, 63.0, 640, 480)
    assert resizes[1] == Resize(518 / 333, 322 / 211, 0.0, 98.0, 333, 211)
    assert resizes[2] == Resize(518 / 300, 728 / 420, 0.0, -105.0, 300, 420)


def test_resize_matrix_moves_intrinsics() -> None:
    matrix = Resize(0.5, 0.25, -3.0, 7.0, 100, 80).matrix()
    intrinsics = np.array([[200.0, 0, 50], [0, 100, 40], [0, 0, 1]])
    moved = matrix @ intrinsics
    np.testing.assert_allclose(moved, [[100, 0, 22], [0, 25, 17], [0, 0, 1]])
    point = np.array([0.3, -0.2, 2.0])  # projecting then moving the pixel is projecting with the moved intrinsics
    source, target = intrinsics @ point, moved @ point
    np.testing.assert_allclose(matrix @ (source / source[2]), target / target[2])


# --- fixed height and width ---------------------------------------------------------------------------------------


def test_exact_equals_scale_then_centre_crop() -> None:
    images, (resize,) = load_images_exact([DATA / "landscape.png"], 112, 112)
    # 640x480 covers 112x112 at 149.33x112; with whole pixels instead: 150x112 and 19 columns off each side.
    near = read_rgb(DATA / "landscape.png").resize((150, 112), Image.Resampling.BICUBIC).crop((19, 0, 131, 112))
    difference = (images[0] - as_unit(np.asarray(near).transpose(2, 0, 1))).abs()
    assert images.shape == (1, 3, 112, 112)
    assert difference.mean() < 0.02
    assert resize.scale_x == resize.scale_y == pytest.approx(112 / 480)
    assert resize.offset_x == pytest.approx((112 - 640 * 112 / 480) / 2)
    assert resize.offset_y == 0.0


def test_exact_without_crop_is_a_plain_resize() -> None:
    images, resizes = load_images_exact([DATA / "landscape.png"], 84, 112)
    plain = read_rgb(DATA / "landscape.png").resize((112, 84), Image.Resampling.BICUBIC)
    assert torch.equal(images[0], as_unit(np.asarray(plain).transpose(2, 0, 1)))
    assert resizes == [Resize(112 / 640, 112 / 640, 0.0, 0.0, 640, 480)]


@pytest.mark.parametrize(("source", "target"), [((200, 100), (56, 56)), ((90, 240), (56, 84)), ((31, 47), (112, 42))])
def test_exact_affine_locates_a_mark(tmp_path: Path, source: tuple[int, int], target: tuple[int, int]) -> None:
    width, height = source
    x0, y0, x1, y1 = (width // 2 + 1, height // 2 - 6, width // 2 + 5, height // 2)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y0:y1, x0:x1] = 255
    Image.fromarray(pixels).save(tmp_path / "mark.png")
    images, (resize,) = load_images_exact([tmp_path / "mark.png"], *target)
    light = images[0, 0].double()
    v, u = torch.meshgrid(torch.arange(target[0]), torch.arange(target[1]), indexing="ij")
    seen = [float(((axis + 0.5) * light).sum() / light.sum()) for axis in (u, v)]
    expected = resize.matrix() @ [(x0 + x1) / 2, (y0 + y1) / 2, 1]
    assert seen == pytest.approx(expected[:2].tolist(), abs=0.1)


@pytest.mark.parametrize(("source", "target"), [((30, 22), (392, 518)), ((22, 30), (518, 392))])
def test_exact_crop_that_rounding_puts_outside_the_image(
    tmp_path: Path, source: tuple[int, int], target: tuple[int, int]
) -> None:
    # 392 / (392 / 22) is a hair above 22, and Pillow refuses a box outside the image.
    images, _ = load_images_exact([save(tmp_path / "tiny.png", *source)], *target)
    assert images.shape == (1, 3, *target)


def test_exact_is_vggts_own_where_that_can_be(tmp_path: Path) -> None:
    """Padded to a square its pad mode; at the size that its crop mode gives, that one, which crops nothing then."""
    for name, (width, height), target in (("wide", (96, 54), (42, 70)), ("tall", (54, 96), (70, 42))):
        path = tmp_path / f"{name}.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 200, (height, width, 3), np.uint8)).save(path)
        square, (resize,) = load_images_exact([path], 70, 70, mode="pad")
        assert torch.equal(square, load_images([path], "pad", 70))
        assert square.min(1).values.eq(1).sum() == 70 * 28  # white
        inside = torch.from_numpy(resize.inside(70, 70))
        assert torch.equal(inside, square[0].min(0).values < 1)
        assert resize.size == target[::-1]
        fitted, _ = load_images_exact([path], *target, mode="pad")
        assert torch.equal(fitted[0].flatten(), square[0, :, inside].flatten())
        if name == "wide":
            assert torch.equal(fitted, load_images([path], "crop", 70))
            cropped, (own,) = load_images_exact([path], *target)
            assert torch.equal(fitted, cropped)
            assert own == Resize(70 / 96, 42 / 54, 0, 0, 96, 54)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_the_size_of_a_file_is_that_of_its_pixels(tmp_path: Path, suffix: str) -> None:
    for orientation in range(9):
        exif = Image.Exif()
        exif[274] = orientation
        path = tmp_path / f"{orientation}{suffix}"
        Image.new("RGB", (40, 24)).save(path, exif=exif)
        assert image_size(path) == read_upright(path).size
        assert image_size(path, upright=False) == read_rgb(path).size
    path.write_bytes(b"none")
    with pytest.raises(QvggtError, match=f"8{suffix}: expected a readable image, got"):
        image_size(path)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 5), st.integers(1, 5))
def test_exact_fills_any_target_from_any_source(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, rows: int, columns: int
) -> None:
    path = save(tmp_path_factory.mktemp("exact") / "flat.png", width, height)
    images, (resize,) = load_images_exact([path], rows * 14, columns * 14)
    assert images.shape == (1, 3, rows * 14, columns * 14)
    assert torch.equal(images[0, :, 0, 0] * 255, torch.tensor([10.0, 20.0, 30.0]))
    corners = resize.matrix() @ [[0, width], [0, height], [1, 1]]  # the source covers the target, centred
    assert (corners[:2, 0] <= 1e-9).all()
    np.testing.assert_allclose(corners[:2].sum(1), [columns * 14, rows * 14], atol=1e-6)


# --- mistakes -----------------------------------------------------------------------------------------------------


def test_empty_list_is_named() -> None:
    for call in (lambda: load_images([]), lambda: load_images_exact([], 28, 28)):
        with pytest.raises(QvggtError, match="at least one image"):
            call()
    with pytest.raises(TypeError, match="list of image paths"):
        load_images("image.png")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QvggtError, match=r"nowhere\.png: no such image file"):
        load_images([DATA / "small.png", tmp_path / "nowhere.png"])


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "flipped", "folder"])
def test_unreadable_file_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.png"
    data = (DATA / "small.png").read_bytes()
    if kind == "folder":
        path.mkdir()
    else:
        flipped = bytearray(data)
        flipped[60:90] = bytes(30)
        path.write_bytes({"text": b"no image", "empty": b"", "truncated": data[:2000], "flipped": bytes(flipped)}[kind])
    with pytest.raises(QvggtError, match=r"bad\.png: expected a readable image") as caught:
        load_images([path])
    assert "\n" not in str(caught.value)


def test_decompression_bomb_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own limit is below what phones make, and its words do not say what to do."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_images([DATA / "small.png"]).shape[0] == 1
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(image_file, "MAX_PIXELS", 100)
    with pytest.raises(QvggtError, match=r"small\.png: has 0 megapixels, expected at most 0; reduce it first"):
        load_images([DATA / "small.png"])


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=64), st.integers(0, 5000))
def test_damaged_bytes_never_escape_as_another_exception(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, position: int
) -> None:
    data = bytearray((DATA / "small.png").read_bytes())
    data[position : position + len(junk)] = junk
    path = tmp_path_factory.mktemp("damaged") / "x.png"
    path.write_bytes(data)
    with contextlib.suppress(QvggtError):
        assert load_images([path], size=28).shape[1] == 3


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    Image.fromarray(np.full((20, 30), 40_000, np.uint16)).save(path)
    with pytest.raises(QvggtError, match=r"depth\.png: expected an 8-bit image, got pixel mode I"):
        load_images([path])


def test_extreme_aspect_ratio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QvggtError, match=r"strip\.png: expected an aspect ratio up to 100:1, got 3x400"):
        load_images([save(tmp_path / "strip.png", 3, 400)])


def test_sizes_off_the_patch_grid_are_refused() -> None:
    with pytest.raises(QvggtError, match="size: expected a positive multiple of 14, got 500; 490 would do"):
        load_images([DATA / "small.png"], size=500)
    with pytest.raises(QvggtError, match="height: expected a positive multiple of 14, got 0; 14 would do"):
        load_images_exact([DATA / "small.png"], 0, 28)
    with pytest.raises(QvggtError, match="mode: expected one of crop, pad, got 'stretch'"):
        load_images([DATA / "small.png"], mode="stretch")  # type: ignore[arg-type]
