"""A picture that shows what quantization does to depth: a row per image, depth maps side by side, their difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Box = tuple[float, float, float, float]

PANEL = 1.6  # inches, width of one picture
GAP = 0.08
BAR = 0.11
LEFT, TOP, BOTTOM = 1.3, 0.9, 0.42
BAR_ROOM = 0.62  # a colour bar with its numbers
DPI = 150
DEPTH_COLOURS, DIFFERENCE_COLOURS = "viridis_r", "inferno"
MISSING = "#c8c8c8"
TAG: dict[str, Any] = {
    "fontsize": 8,
    "color": "white",
    "ha": "right",
    "va": "bottom",
    "bbox": {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.5},
}


@dataclass(frozen=True)
class Row:
    """One image with its depth maps. image: [H, W, 3] in [0, 1]; depths: [H, W] each, in one unit; NaN: no depth."""

    label: str
    image: Array
    depths: tuple[Array, ...]


@dataclass(frozen=True)
class Sheet:
    """All rows have the same H x W and as many depth maps as there are `columns` (their titles).

    The last column of every sheet is the relative difference of the depth columns `compared` = (reference, other).
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    compared: tuple[int, int]
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.rows or not self.columns:
            raise QvggtError("contact sheet: expected at least one row and one depth column, got none")
        if not all(0 <= index < len(self.columns) for index in self.compared):
            raise QvggtError(f"contact sheet: columns {self.compared} compared, but there are {len(self.columns)}")
        height, width = self.rows[0].image.shape[:2]
        for row in self.rows:
            shapes = [row.image.shape, *(depth.shape for depth in row.depths)]
            if shapes != [(height, width, 3)] + [(height, width)] * len(self.columns):
                raise QvggtError(
                    f"contact sheet: row {row.label!r} has shapes {shapes}, expected one image and "
                    f"{len(self.columns)} depth maps of {height}x{width} like the first row"
                )


@dataclass(frozen=True)
class Layout:
    """Where things lie, in inches from the top left corner: (x, y, width, height)."""

    width: float
    height: float
    panels: tuple[tuple[Box, ...], ...]
    depth_bars: tuple[Box, ...]
    difference_bar: Box


def layout(sheet: Sheet) -> Layout:
    """Boxes of every picture, row by row (image, depths, difference), of each row's depth bar and of the shared bar."""
    rows, columns = len(sheet.rows), len(sheet.columns)
    high = PANEL * sheet.rows[0].image.shape[0] / sheet.rows[0].image.shape[1]
    lefts = [LEFT + i * (PANEL + GAP) for i in range(1 + columns)]
    bar = lefts[-1] + PANEL + GAP
    lefts.append(bar + BAR + BAR_ROOM)
    tops = [TOP + i * (high + GAP) for i in range(rows)]
    last = lefts[-1] + PANEL + GAP
    return Layout(
        width=last + BAR + BAR_ROOM,
        height=tops[-1] + high + BOTTOM,
        panels=tuple(tuple((left, top, PANEL, high) for left in lefts) for top in tops),
        depth_bars=tuple((bar, top, BAR, high) for top in tops),
        difference_bar=(last, tops[0], BAR, tops[-1] + high - tops[0]),
    )


def relative_difference(reference: Array, other: Array) -> Array:
    """|other - reference| / |reference| in percent; NaN where either has no finite depth or the reference is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = 100 * np.abs(np.subtract(other, reference, dtype=np.float64)) / np.abs(reference)
    return np.where(np.isfinite(difference), difference, np.nan)


def shared_range(maps: Sequence[Array], low: float = 1, high: float = 99) -> tuple[float, float]:
    """Percentiles `low` and `high` of all finite values together; (0, 1) without any, never an empty range."""
    values = np.concatenate([np.ravel(m[np.isfinite(m)]) for m in maps])
    if not values.size:
        return 0.0, 1.0
    bottom, top = (float(v) for v in np.percentile(values, [low, high]))
    return (bottom, top) if top > bottom else (bottom, bottom + max(abs(bottom), 1.0) * 1e-3)


def draw_contact_sheet(sheet: Sheet, path: str | Path) -> None:
    """Write the sheet as a PNG, atomically; equal sheets give equal bytes.

    The depth maps of a row share one colour scale (percentiles 1 to 99 of the row), so equal colours are equal depths;
    the differences of all rows share another one. QvggtError when `path` cannot be written.
    """
    figure = draw(sheet)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": "qvggt"})


def draw(sheet: Sheet) -> Figure:
    """The sheet as a matplotlib figure that belongs to no window."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    places = layout(sheet)
    figure = Figure(figsize=(places.width, places.height), facecolor="white")
    depth_colours = colormaps[DEPTH_COLOURS].with_extremes(bad=MISSING)
    difference_colours = colormaps[DIFFERENCE_COLOURS].with_extremes(bad=MISSING)
    reference, other = sheet.compared
    differences = [relative_difference(row.depths[reference], row.depths[other]) for row in sheet.rows]
    largest = shared_range(differences)[1]
    titles = ("input", *sheet.columns, "relative difference")
    for index, (row, difference) in enumerate(zip(sheet.rows, differences, strict=True)):
        axes = [_axes(figure, places, box) for box in places.panels[index]]
        for axis in axes:
            axis.set(xticks=[], yticks=[])
        axes[0].imshow(np.clip(row.image, 0, 1), interpolation="nearest")
        axes[0].set_ylabel(row.label, fontsize=8, rotation=0, ha="right", va="center", labelpad=6)
        low, high = shared_range(row.depths)
        for axis, depth in zip(axes[1:-1], row.depths, strict=True):
            shown = axis.imshow(
                np.where(np.isfinite(depth), depth, np.nan),
                cmap=depth_colours,
                vmin=low,
                vmax=high,
                interpolation="nearest",
            )
        _bar(figure, places, places.depth_bars[index], shown, "depth" if index == 0 else "")
        shown = axes[-1].imshow(difference, cmap=difference_colours, vmin=0, vmax=largest, interpolation="nearest")
        axes[-1].text(0.97, 0.04, _mean(difference), transform=axes[-1].transAxes, **TAG)
        if index == 0:
            for axis, title in zip(axes, titles, strict=True):
                axis.set_title(title, fontsize=9, pad=5)
    _bar(figure, places, places.difference_bar, shown, "%", open_end=True)
    figure.text(GAP / places.width, 1 - 0.14 / places.height, sheet.title, fontsize=12, weight="bold", va="top")
    figure.text(GAP / places.width, 0.1 / places.height, sheet.caption, fontsize=8, color="#444444", va="bottom")
    return figure


def _axes(figure: Figure, places: Layout, box: Box) -> Axes:
    x, y, width, height = box
    down = 1 - (y + height) / places.height
    return figure.add_axes((x / places.width, down, width / places.width, height / places.height))


def _bar(figure: Figure, places: Layout, box: Box, shown: Any, title: str, open_end: bool = False) -> None:
    axis = _axes(figure, places, box)
    bar = figure.colorbar(shown, cax=axis, extend="max" if open_end else "neither", extendfrac=0.02)
    bar.ax.tick_params(labelsize=7, length=2, pad=2)
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]
    axis.set_title(title, fontsize=7, pad=5)


def _mean(difference: Array) -> str:
    known = difference[np.isfinite(difference)]
    return f"mean {known.mean():.2g} %" if known.size else "no depth"
