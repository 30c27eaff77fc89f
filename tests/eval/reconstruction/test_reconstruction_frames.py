from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvggt.data.images import Mode, load_images_exact, load_images_tracked
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.reconstruction.frames import load_frames

SIZES = [(90, 120), (120, 90), (64, 200), (70, 70)]  # height, width


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    found = []
    for index, (height, width) in enumerate(SIZES):
        found.append(tmp_path / f"{index}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(found[-1])
    return found


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_equals_the_list_at_once(paths: list[Path], fit: Mode) -> None:
    frames = load_frames(paths, ImagePlan(70, fit=fit))
    expected, resizes = load_images_tracked(paths, fit, 70)
    assert np.array_equal(frames.floats(slice(None)), expected.numpy())
    assert list(frames.resizes) == resizes


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_equals_the_list_at_once_for_an_engine(paths: list[Path], fit: Mode) -> None:
    frames = load_frames(paths, ImagePlan(70, (56, 70), fit=fit))
    expected, resizes = load_images_exact(paths, 56, 70, mode=fit)
    assert np.array_equal(frames.floats(slice(1, 3)), expected.numpy()[1:3])
    assert list(frames.resizes) == resizes


@pytest.mark.parametrize(("fit", "exact"), [("crop", None), ("pad", None), ("crop", (42, 70)), ("pad", (42, 70))])
def test_source_grid_says_where_pixels_come_from(tmp_path: Path, fit: Mode, exact: tuple[int, int] | None) -> None:
    """A ramp: the value of a pixel is its place, so a resized ramp shows where every network pixel was taken."""
    paths = []
    for index, (height, width) in enumerate(((150, 220), (220, 150))):
        y, x = np.mgrid[:height, :width]
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8)).save(paths[-1])
    frames = load_frames(paths, ImagePlan(70, exact, fit=fit))
    height, width = frames.size
    for pixels, resize, inside in zip(frames.pixels, frames.resizes, frames.inside(), strict=True):
        x, y = resize.source_grid(height, width)
        middle = np.zeros_like(inside)
        rows, columns = np.nonzero(inside)
        middle[rows.min() + 2 : rows.max() - 1, columns.min() + 2 : columns.max() - 1] = (
            True  # the kernel meets no edge
        )
        # pixel i of the source has its centre, and its value i, at i + 0.5
        assert np.abs(pixels[0] + 0.5 - x[None, :])[middle].max() < 0.6
        assert np.abs(pixels[1] + 0.5 - y[:, None])[middle].max() < 0.6
        assert abs(np.mean((pixels[0] + 0.5 - x[None, :])[middle])) < 0.2
        assert np.array_equal(inside, pixels[2] != 255)


def test_unseen_share(tmp_path: Path) -> None:
    Image.new("RGB", (100, 200)).save(tmp_path / "tall.png")
    assert load_frames([tmp_path / "tall.png"], ImagePlan(70)).unseen() == pytest.approx(0.5)
    assert load_frames([tmp_path / "tall.png"], ImagePlan(70, fit="pad")).unseen() == pytest.approx(0)
