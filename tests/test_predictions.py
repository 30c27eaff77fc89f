"""Predictions as a line of shapes and as a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from qvggt.errors import QvggtError
from qvggt.geometry import encode_pose
from qvggt.pictures import FRAMES
from qvggt.predictions import Predictions

HEIGHT, WIDTH = 28, 42


def predictions(count: int) -> Predictions:
    """Cameras side by side that look ahead, 1 apart; a slope of depth 4 to 5; confidence 1 to 2."""
    extrinsics = torch.eye(4).repeat(count, 1, 1)[:, :3]
    extrinsics[:, 0, 3] = -torch.arange(count)
    intrinsics = torch.tensor([[40.0, 0, WIDTH / 2], [0, 40, HEIGHT / 2], [0, 0, 1]]).repeat(count, 1, 1)
    slope = np.broadcast_to(np.linspace(0, 1, WIDTH, dtype=np.float32), (count, HEIGHT, WIDTH)).copy()
    return Predictions(encode_pose(extrinsics, intrinsics, HEIGHT, WIDTH).numpy(), 4 + slope, 1 + slope)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, HEIGHT, WIDTH), np.float32)


def above(figure: Figure):
    return next(axis for axis in figure.axes if axis.get_title() == "cameras from above")


def centres(figure: Figure) -> list[tuple[float, float]]:
    return [tuple(np.ravel(line.get_xydata())) for line in above(figure).lines]


def maps(figure: Figure) -> list[np.ndarray]:
    return [axis.images[0].get_array() for axis in figure.axes if axis.images]


def test_repr_is_shapes() -> None:
    assert repr(predictions(4)) == "Predictions(pose_enc [4, 9], depth [4, 28, 42], depth_conf [4, 28, 42])"


def test_a_picture_of_all_there_is(tmp_path: Path) -> None:
    found, pixels = predictions(3), torch.from_numpy(images(3))
    figure = found.plot(pixels, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
    shown = maps(figure)
    assert len(shown) == 3 * 3
    for frame in range(3):
        np.testing.assert_array_equal(shown[frame], pixels[frame].permute(1, 2, 0))
        np.testing.assert_array_equal(shown[3 + frame], found.depth[frame])
        np.testing.assert_array_equal(shown[6 + frame], found.depth_conf[frame])
    assert len({axis.images[0].get_clim() for axis in figure.axes[4:7] if axis.images}) == 1  # one scale for a row
    np.testing.assert_allclose(centres(figure), [(0, 0), (1, 0), (2, 0)], atol=1e-6)
    wedges = [patch.get_xy() for patch in above(figure).patches]
    assert all(wedge[1, 1] > 0 and wedge[2, 1] > 0 for wedge in wedges)  # ahead
    points = above(figure).collections[0].get_offsets()
    assert len(points) == 3 * HEIGHT * WIDTH // 2  # the more confident half
    assert points[:, 1].min() > 4.4
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_many_frames_and_missing_outputs() -> None:
    figure = predictions(20).plot()
    assert len(maps(figure)) == 2 * FRAMES
    assert {"frame 0", "frame 19"} <= {axis.get_title() for axis in figure.axes}
    assert len(centres(figure)) == 20
    cameras = replace(predictions(2), depth=None, depth_conf=None)
    assert maps(cameras.plot()) == []
    assert len(maps(cameras.plot(images(2)))) == 2


def test_what_is_not_finite_is_left_out() -> None:
    found = predictions(3)
    encoding = found.pose_enc.copy()
    encoding[1] = np.nan
    figure = replace(found, pose_enc=encoding, depth=np.full_like(found.depth, np.nan)).plot()
    np.testing.assert_allclose(centres(figure), [(0, 0), (2, 0)], atol=1e-6)
    assert [text.get_text() for text in above(figure).texts][-1] == "1 of 3 cameras are not finite"
    figure.canvas.draw()
    none = replace(found, pose_enc=np.full_like(encoding, np.nan)).plot()
    assert centres(none) == []
    none.canvas.draw()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(QvggtError, match=r"images: expected \[2, 3, 28, 42\] as the predictions, got \[3, 3, 28, 42\]"):
        predictions(2).plot(images(3))
    with pytest.raises(QvggtError, match=r"p\.txt: expected a name that ends in \..*\.png"):
        predictions(2).plot(path=tmp_path / "p.txt")
    assert not list(tmp_path.iterdir())
