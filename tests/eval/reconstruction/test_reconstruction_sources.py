from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Transpose

from qvggt.data.photos import ORIENTATION, find_images, stage_images, unique_names
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
    (photo,) = stage_images([tmp_path / "a.png"], out)
    with Image.open(photo.path) as found:
        assert found.getexif().get(ORIENTATION, 1) == 1
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(upright))
    assert (photo.width, photo.height, photo.orientation) == (20, 12, orientation)


def test_upright_files_are_copied_byte_by_byte(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", quality=40)
    (tmp_path / "out").mkdir()
    (photo,) = stage_images([tmp_path / "a.jpg"], tmp_path / "out")
    assert photo.path.read_bytes() == (tmp_path / "a.jpg").read_bytes()


def test_a_turned_jpeg_stays_a_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture().save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "out").mkdir()
    (photo,) = stage_images([tmp_path / "a.jpg"], tmp_path / "out")
    assert (photo.name, photo.width, photo.height) == ("a.jpg", 12, 20)


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
        stage_images([tmp_path / "a.jpg"], tmp_path)
