"""The charts of the page: SVG by matplotlib, fit to stand inside HTML."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qvggt.eval.html.document import Document
from qvggt.eval.html.text import colour, plain
from qvggt.eval.metrics import MetricWords

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, can be searched
    "text.parse_math": False,  # a "$" in a name is a dollar
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
}
CHARTED = ("auc30", "unproj_acc", "head_acc", "abs_rel")  # the first that was measured, and the next of another kind
NAMED_LAYERS = 48  # more layers than this get numbers instead of names
LOWEST = 5
_DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
_NAMESPACE = re.compile(r' xmlns(:xlink)?="[^"]*"')
_GROUP = re.compile(r' id="[A-Za-z0-9.]+_\d+"')  # the same in every figure; nothing refers to them


@dataclass(frozen=True)
class TradeOff:
    """name: the id of the figure, unique on the page. svg: None without a candidate to show. absent: indices of
    candidates without the cost or the metric."""

    name: str
    svg: str | None
    absent: tuple[int, ...]


@dataclass(frozen=True)
class LayerChart:
    """lowest: candidate's index -> its lowest layers, (path, dB)."""

    name: str
    measure: str
    svg: str
    lowest: Mapping[int, list[tuple[str, float]]]


def trade_offs(document: Document) -> list[TradeOff]:
    """A metric of pose and one of geometry, each over size and over time."""
    measured = {metric.name: metric for metric in document.measured()}
    metrics = [measured[name] for name in CHARTED if name in measured] or list(measured.values())
    sizes = [None if c.bytes is None else c.bytes / 1e6 for c in document.candidates]
    times = [None if c.latency is None else c.latency.p50 for c in document.candidates]
    costs = (("size", sizes, "size of the files, MB"), ("time", times, "p50 of one forward pass, s"))
    return [
        _trade_off(document, metric, cost, axis, f"{name}-{order}")
        for order, metric in enumerate(metrics[:2])  # ids by order: names are data
        for name, cost, axis in costs
    ]


def _trade_off(document: Document, metric: MetricWords, cost: list[float | None], axis: str, name: str) -> TradeOff:
    """`metric` with its interval over the cost of every candidate that has both. axis: the words of the x axis."""
    figures = [candidate.summary.get(metric.name) for candidate in document.candidates]
    shown = {
        index: (x, figure.value, figure.interval)
        for index, (x, figure) in enumerate(zip(cost, figures, strict=True))
        if x is not None and figure and figure.value is not None and math.isfinite(x) and math.isfinite(figure.value)
    }

    def draw(axes: Axes) -> None:
        for index, (x, y, interval) in shown.items():
            if interval and all(map(math.isfinite, interval)):  # need not hold its value: draw it by itself
                axes.plot([x, x], interval, color=colour(index), linewidth=1.2, alpha=0.6)
            axes.plot([x], [y], "o", color=colour(index), markersize=7)
        axes.set_xlabel(axis)
        axes.set_ylabel(plain(f"{metric.title} ({metric.unit})", 60))
        axes.set_xlim(0, 1.1 * max(x for x, _, _ in shown.values()) or 1)

    absent = tuple(index for index in range(len(figures)) if index not in shown)
    return TradeOff(name, svg(draw, 5.4, 3.6, name) if shown else None, absent)


def layer_charts(document: Document) -> list[LayerChart]:
    """One per kind of measure, over the layers in the order of the model."""
    groups: dict[str, dict[int, list[tuple[str, float | None]]]] = {}
    for index, candidate in enumerate(document.candidates):
        if candidate.layers is not None and candidate.layers.rows:
            rows = [(row.path, row.sqnr_db) for row in candidate.layers.rows]
            groups.setdefault(candidate.layers.measure, {})[index] = rows
    return [_layer_chart(measure, tables, f"layers-{i}") for i, (measure, tables) in enumerate(groups.items())]


def _layer_chart(measure: str, tables: Mapping[int, list[tuple[str, float | None]]], name: str) -> LayerChart:
    paths = list(dict.fromkeys(path for rows in tables.values() for path, _ in rows))
    place = {path: x for x, path in enumerate(paths)}

    def draw(axes: Axes) -> None:
        for index, rows in tables.items():
            points = [(place[p], value) for p, value in rows if value is not None and math.isfinite(value)]
            style: dict[str, Any] = {"color": colour(index), "markersize": 3.5, "linewidth": 1.1, "alpha": 0.8}
            axes.plot([x for x, _ in points], [y for _, y in points], "o-", **style)
        axes.set_ylabel("dB")
        if len(paths) <= NAMED_LAYERS:
            axes.set_xticks(range(len(paths)), [_tail(path) for path in paths], rotation=90, fontsize=7)
        else:
            axes.set_xlabel("layer, in the order of the model")

    lowest = {}
    for index, rows in tables.items():
        known = sorted((value, path) for path, value in rows if value is not None and not math.isnan(value))
        lowest[index] = [(path, value) for value, path in known[:LOWEST]]
    return LayerChart(name, measure, svg(draw, 10.5, 3.8, name), lowest)


def _tail(path: str) -> str:
    text = plain(path.replace("aggregator.", ""), 80)
    return text if len(text) <= 34 else f"\N{HORIZONTAL ELLIPSIS}{text[-33:]}"


def svg(draw: Callable[[Axes], None], width: float, height: float, salt: str) -> str:
    """An SVG element of what `draw` puts on a pair of axes. width, height: inches. salt: keeps ids of figures apart."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": salt}
    with matplotlib.rc_context(style):
        plot: Plot = Figure(figsize=(width, height), layout="constrained")
        draw(plot.add_subplot())
        buffer = io.StringIO()
        FigureCanvasSVG(plot).print_svg(buffer, metadata={"Date": None})
    text = _GROUP.sub("", _NAMESPACE.sub("", _DROPPED.sub("", buffer.getvalue())))
    return text.strip()
