"""The picture of depth maps: what its colours mean, and that a failed drawing leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from depth_sheet import Row, draw, relative_difference
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from qvggt.pictures import save, shared_range

RAMP = np.linspace(1, 2, 14 * 28).reshape(14, 28)
IMAGE = np.full((14, 28, 3), (1.0, 0.0, 0.0))


def sheet(*rows: tuple[NDArray[np.float64], ...]) -> Figure:
    made = tuple(Row(f"row {i}", IMAGE, depths) for i, depths in enumerate(rows))
    return draw(made, [f"column {i}" for i in range(len(rows[0]))])


def colours(drawn: Figure, path: Path) -> dict[tuple[int, int], NDArray[np.uint8]]:
    """(row, column) -> RGB [14, 28, 3] at the middle of each cell of that panel; column 0 is the image.

    Panels start at fractions of a pixel, so where exactly a cell ends differs between them and matplotlib versions.
    """
    save(drawn, path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    panels = {}
    for axis in drawn.axes:
        place = axis.get_subplotspec()
        if not axis.images or place is None:
            continue  # a colour bar
        box = axis.get_position()
        x, y = np.linspace(box.x0, box.x1, 57)[1::2], 1 - np.linspace(box.y1, box.y0, 29)[1::2]
        rows, columns = (y * pixels.shape[0]).astype(int), (x * pixels.shape[1]).astype(int)
        panels[place.rowspan.start, place.colspan.start] = pixels[np.ix_(rows, columns)]
    return panels


def test_equal_colours_are_equal_depths_within_a_row(tmp_path: Path) -> None:
    panels = colours(sheet((RAMP, RAMP, RAMP + 0.5)), tmp_path / "a.png")
    assert np.array_equal(panels[0, 1], panels[0, 2])
    assert not np.array_equal(panels[0, 1], panels[0, 3])


def test_each_row_has_its_own_depth_scale(tmp_path: Path) -> None:
    panels = colours(sheet((RAMP, RAMP), (10 * RAMP, 10 * RAMP)), tmp_path / "a.png")
    assert np.array_equal(panels[0, 1], panels[1, 1])


def test_differences_share_one_scale(tmp_path: Path) -> None:
    flat = np.ones((14, 28))
    panels = colours(sheet((flat, flat), (flat, 1.1 * flat), (flat, 1.2 * flat)), tmp_path / "a.png")
    shown = [int(panels[i, 3][1, 1].sum()) for i in range(3)]
    assert shown[0] < 50  # black: no difference
    assert shown[0] < shown[1] < shown[2]


def test_the_input_image_is_shown_as_it_is(tmp_path: Path) -> None:
    panels = colours(sheet((RAMP, RAMP)), tmp_path / "a.png")
    assert (panels[0, 0] == (255, 0, 0)).all()


def test_missing_depth_is_grey_and_does_not_move_the_scale(tmp_path: Path) -> None:
    holes = RAMP.copy()
    holes[:, :14] = np.nan
    panels = colours(sheet((RAMP, holes)), tmp_path / "a.png")
    assert (panels[0, 2][:, :14] == 0xC8).all()
    assert np.array_equal(panels[0, 1][:, 14:], panels[0, 2][:, 14:])


def test_all_depth_missing_still_draws(tmp_path: Path) -> None:
    nothing = np.full((14, 28), np.inf)
    panels = colours(sheet((nothing, nothing)), tmp_path / "a.png")
    assert (panels[0, 1] == 0xC8).all()


def test_equal_sheets_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(sheet((RAMP, RAMP)), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_failed_drawing_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def broken(self: Figure, place: Path, **options: object) -> None:
        Path(place).write_bytes(b"half a pict")
        raise RuntimeError("power cut")

    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(RuntimeError):
        save(sheet((RAMP, RAMP)), path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"


def test_relative_difference_in_percent() -> None:
    found = relative_difference(np.array([2.0, 4.0, 0.0, np.nan]), np.array([2.5, 3.0, 1.0, 1.0]))
    np.testing.assert_array_equal(found, [25, 25, np.nan, np.nan])


def test_shared_range() -> None:
    assert shared_range([np.arange(50.0), np.arange(50.0, 101.0)]) == (1.0, 99.0)
    assert shared_range([np.array([np.nan])]) == (0.0, 1.0)
    low, high = shared_range([np.full(9, 3.0)])
    assert low == 3.0
    assert high > 3.0
