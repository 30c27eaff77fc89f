from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from qvggt.data.images import Mode
from qvggt.data.photos import Photo
from qvggt.errors import QvggtError
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.reconstruction.config import Fit, Mask
from qvggt.eval.reconstruction.frames import load_frames
from qvggt.eval.reconstruction.masks import MASKS, find_masks, keep, read_masks


def landscape(seed: int = 0) -> np.ndarray:
    """Blue sky that fades to the horizon, a cloud, textured ground, and a blue lake below."""
    rng = np.random.default_rng(seed)
    image = np.empty((120, 160, 3), np.float64)
    image[:60] = np.linspace([90, 140, 220], [190, 210, 235], 60)[:, None]
    image[10:25, 40:80] = 235
    image[60:] = np.array([70, 110, 50]) + rng.normal(0, 25, (60, 160, 1))
    image[90:110, 30:120] = [80, 130, 210]
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def test_options_name_what_there_is() -> None:
    assert get_args(Mask) == tuple(MASKS)
    assert get_args(Fit) == get_args(Mode)


def test_black_and_white() -> None:
    image = np.array([[[0, 0, 0], [15, 15, 15], [16, 0, 0], [255, 255, 255], [241, 241, 240], [128, 9, 3]]], np.uint8)
    assert keep(image, ["black"])[0].tolist() == [False, False, True, True, True, True]
    assert keep(image, ["white"])[0].tolist() == [True, True, True, False, True, True]
    assert keep(image, ["white", "black"])[0].tolist() == [False, False, True, False, True, True]
    with pytest.raises(QvggtError, match="black, white, sky"):
        keep(image, ["grey"])


def test_sky_is_what_reaches_the_upper_edge() -> None:
    kept = keep(landscape(), ["sky"])
    assert kept[:58].mean() < 0.1  # what is left: the rim of the cloud
    assert kept[62:].mean() > 0.99  # the ground, and the lake, which is as blue
    assert keep(landscape()[60:], ["sky"]).mean() > 0.99
    assert keep(np.full((60, 60, 3), 40, np.uint8), ["sky"]).all()  # night is no sky to this rule


def test_mask_files(tmp_path: Path) -> None:
    paths = []
    for index, (height, width) in enumerate([(100, 140), (140, 100)]):
        paths.append(tmp_path / f"{index}.png")
        Image.new("RGB", (width, height), (90, 90, 90)).save(paths[-1])
    photos = [Photo(path.name, path, 1, 1, path.name) for path in paths]
    frames = load_frames(paths, ImagePlan(70))
    folder = tmp_path / "masks"
    folder.mkdir()
    with pytest.raises(QvggtError, match=r"0\.png\.png"):
        read_masks(folder, photos, frames.resizes, frames.size)
    half = np.zeros((100, 140), np.uint8)
    half[:, 70:] = 255
    Image.fromarray(half).save(folder / "0.png.png")
    kept, without = read_masks(folder, photos, frames.resizes, frames.size)
    assert without == ("1.png",)
    inside = frames.inside()
    assert not kept[0, :, :35].any()
    assert kept[0, :, 35:][inside[0, :, 35:]].all()
    assert kept[1].all()
    (folder / "1.png").write_bytes(b"nothing")
    with pytest.raises(QvggtError, match=r"1\.png"):
        read_masks(folder, photos, frames.resizes, frames.size)


def test_masks_are_found_by_the_names_the_user_gave(tmp_path: Path) -> None:
    """The command changes names: spaces, a turned WebP becomes PNG, equal names of two folders get numbers."""
    given = ["in/my photo.jpg", "in/q.webp", "a/x.jpg", "b/x.jpg", "b/y.jpg"]
    staged = ["my_photo.jpg", "q.png", "0003_x.jpg", "0004_x.jpg", "y.jpg"]
    photos = [Photo(name, Path(name), 1, 1, source) for name, source in zip(staged, given, strict=True)]
    photos += [Photo("anim_0001.png", Path(), 1, 1, "in/anim.gif", page=0)]
    masks = ["my photo.jpg.png", "q.png", "a/x.jpg.png", "x.jpg.png", "y.jpg.png", "anim.gif.png"]
    for name in masks:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path and path.relative_to(tmp_path).as_posix() for path in find_masks(tmp_path, photos)]
    # x.jpg.png could be meant for either x.jpg, and no mask of a whole animation for its first frame
    assert found == ["my photo.jpg.png", "q.png", "a/x.jpg.png", None, "y.jpg.png", None]
