from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features
from PIL.Image import Transpose

from qvggt.data import image_file, photos
from qvggt.data.image_file import FILE_TYPE, HEIF_ADVICE, ORIENTATION, read_upright
from qvggt.data.photos import find_images, stage_images, unique_names
from qvggt.errors import QvggtError

# what a camera stores so that the turn its EXIF value asks for gives the upright picture
STORED = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


def picture(width: int = 20, height: int = 12) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    upright = picture()
    turn = STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    out = tmp_path / "out"
    out.mkdir()
    (photo,) = stage_images(find_images([tmp_path / "a.png"]), out)
    with Image.open(photo.path) as found:
        assert found.getexif().get(ORIENTATION, 1) == 1
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(upright))
    assert (photo.width, photo.height, photo.orientation) == (20, 12, orientation)


def test_upright_files_are_copied_byte_by_byte(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", quality=40)
    (tmp_path / "out").mkdir()
    (photo,) = stage_images(find_images([tmp_path / "a.jpg"]), tmp_path / "out")
    assert photo.path.read_bytes() == (tmp_path / "a.jpg").read_bytes()


def test_a_turned_jpeg_stays_a_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture().save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "out").mkdir()
    (photo,) = stage_images(find_images([tmp_path / "a.jpg"]), tmp_path / "out")
    assert (photo.name, photo.width, photo.height) == ("a.jpg", 12, 20)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_is_turned_once_and_stored_so_that_nobody_turns_it_again(tmp_path: Path, compression: str) -> None:
    picture().transpose(Transpose.ROTATE_90).save(
        tmp_path / "a.tif", tiffinfo={ORIENTATION: 6}, compression=compression
    )
    (tmp_path / "out").mkdir()
    (photo,) = stage_images(find_images([tmp_path / "a.tif"]), tmp_path / "out")
    with Image.open(photo.path) as found:
        assert (photo.name, photo.orientation, found.getexif().get(ORIENTATION)) == ("a.png", 6, None)
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(picture()))
    assert np.array_equal(np.asarray(read_upright(tmp_path / "a.tif")), np.asarray(picture()))


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (24, 16), (60 * index, 200 - 60 * index, 30)) for index in range(4)]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_every_frame_of_a_moving_picture_is_used(tmp_path: Path, name: str) -> None:
    still, *rest = frames()
    options = {"lossless": True} if name == "a.webp" else {}
    still.save(tmp_path / name, save_all=True, append_images=rest, **options)
    picture().save(tmp_path / "b.png")
    said: list[str] = []
    found = find_images([tmp_path], say=said.append)
    assert said == [f"note: {tmp_path / name}: holds 4 pictures (frames or pages); each is used"]
    (tmp_path / "out").mkdir()
    photos = stage_images(found, tmp_path / "out")
    assert [p.name for p in photos] == [*(f"a_000{n}.png" for n in range(1, 5)), "b.png"]
    for photo, truth in zip(photos, frames(), strict=False):
        with Image.open(photo.path) as image:
            assert np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(truth, int)).max() <= 4
    assert [p.page for p in find_images([tmp_path], every=3)] == [0, 3]
    assert len(find_images([tmp_path], limit=2)) == 2


def test_previews_beside_a_photograph_are_not_photographs(tmp_path: Path) -> None:
    """A phone's JPEG with a gain map (MPO), and a TIFF with a reduced copy of its page."""
    picture().save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[picture(10, 6)])
    reduced = TiffImagePlugin.ImageFileDirectory_v2()
    reduced[FILE_TYPE] = 1
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "b.tif"), True) as file:
        for page, tags in ((picture(), {}), (picture(10, 6), reduced)):
            page.save(file, format="TIFF", tiffinfo=tags)
            file.newFrame()
    said: list[str] = []
    assert [(p.name, p.page) for p in find_images([tmp_path], say=said.append)] == [("a.jpg", None), ("b.tif", None)]
    assert said == ["note: 2 files hold previews, depth or gain maps beside the photograph, which are not used"]


def test_what_a_folder_holds_besides_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "heif_is_readable", lambda: False)
    (tmp_path / "deeper").mkdir()
    for name in ("a.jpg", "b.HEIC", "c.heic", "d.MOV", "e.CR2", "README", ".hidden.txt"):
        (tmp_path / name).touch()
    said: list[str] = []
    assert [p.name for p in find_images([tmp_path], say=said.append)] == ["a.jpg"]
    (line,) = said
    assert line.startswith(f"note: {tmp_path}: 1 images; left out: 2 .heic (HEIC: {HEIF_ADVICE})")
    assert all(part in line for part in ("1 .mov (a video", "1 .cr2 (raw", "1 without a suffix", "1 folders (not"))
    with pytest.raises(QvggtError, match=r"b\.HEIC: is a HEIC .*pip install pillow-heif, or convert to JPEG"):
        find_images([tmp_path / "b.HEIC"])


def test_heic_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phones and chat programs give it any name."""
    monkeypatch.setattr(image_file, "heif_is_readable", lambda: False)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(QvggtError, match=r"a\.jpg: is a HEIC .*pip install pillow-heif"):
        stage_images(find_images([tmp_path / "a.jpg"]), tmp_path / "out")


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_phone_formats_become_jpeg(tmp_path: Path, suffix: str) -> None:
    if suffix == ".heic":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed").register_heif_opener()
    elif not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    smooth = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    # libheif turns by itself, and the EXIF value beside it must not be obeyed again
    stored = smooth if suffix == ".heic" else smooth.transpose(Transpose.ROTATE_90)
    stored.save(tmp_path / f"a{suffix}", exif=exif)
    (tmp_path / "out").mkdir()
    (photo,) = stage_images(find_images([tmp_path]), tmp_path / "out")
    assert photo.name == "a.jpg"
    with Image.open(photo.path) as found:
        assert (found.format, found.size) == ("JPEG", (64, 48))
        assert np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(smooth, int)).mean() < 4


def test_folders_are_listed_by_number(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.png", "img1.PNG", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    found = find_images([tmp_path])
    assert [p.name for p in found] == ["img1.PNG", "img2.png", "img10.png"]
    assert [p.name for p in find_images([tmp_path], every=2)] == ["img1.PNG", "img10.png"]
    assert [p.name for p in find_images([tmp_path], limit=1)] == ["img1.PNG"]


def test_names_are_safe_and_unique() -> None:
    assert unique_names([Path("a/my photo.jpg"), Path("ü(1).png")]) == ["my_photo.jpg", "ü_1_.png"]
    twice = unique_names([Path("a/x.jpg"), Path("b/X.png")])
    assert twice == ["0001_x.jpg", "0002_X.png"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("gone.jpg", "no such file"), ("empty", "holds no image"), ("clip.mp4", "only input")],
)
def test_mistakes_in_the_inputs(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(QvggtError, match=words):
        find_images([tmp_path / name])


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(QvggtError, match=r"a\.jpg"):
        stage_images(find_images([tmp_path / "a.jpg"]), tmp_path)
