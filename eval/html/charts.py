"""The charts of the page: SVG by matplotlib, fit to stand inside HTML."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qvggt.eval.html.document import Document
from qvggt.eval.html.text import COLOURS, colour, plain
from qvggt.eval.metrics import MetricWords
from qvggt.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

INK, FAINT, GRID = "#010203", "#010204", "#010205"  # stand for the page's own colours, which follow its theme
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, can be searched
    "text.parse_math": False,  # a "$" in a name is a dollar
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
CHARTED = ("auc30", "unproj_acc", "head_acc", "abs_rel")  # the first that was measured, and the next of another kind
NAMED_LAYERS = 48  # more layers than this get numbers instead of names
LOWEST = 5
ROOM = 0.055  # of the height of a chart, between the middles of two labels
LABEL = 0.3  # of the width of a chart, of a label
_DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
_NAMESPACE = re.compile(r' xmlns(:xlink)?="[^"]*"')
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_STYLE = re.compile(r'style="[^"]*"')
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--line)"}
_VARIABLES |= {value: f"var(--c{i})" for i, value in enumerate(COLOURS)}
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


Cost = tuple[str, list[float | None], str]
"""Name, of every candidate, words of the axis."""


def trade_offs(document: Document, names: Sequence[str]) -> list[TradeOff]:
    """A metric of pose and one of geometry, each over size and over time. names: short ones of the candidates."""
    measured = {metric.name: metric for metric in document.measured()}
    metrics = [measured[name] for name in CHARTED if name in measured] or list(measured.values())
    sizes = [None if c.file_size is None else c.file_size / 1e6 for c in document.candidates]
    times = [None if c.latency is None else c.latency.p50 for c in document.candidates]
    costs: tuple[Cost, ...] = (("size", sizes, "size of the files, MB"), ("time", times, "p50 of one forward pass, s"))
    return [
        _trade_off(document, names, metric, cost, f"{cost[0]}-{order}")
        for order, metric in enumerate(metrics[:2])  # ids by order: names are data
        for cost in costs
    ]


def pareto(points: Sequence[tuple[float, float]], higher: bool) -> list[tuple[float, float]]:
    """Of points (cost, figure) those that no other beats in one and equals or beats in the other, from cheap to dear.
    higher: whether a higher figure is better."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1] if higher else point[1])):
        if not front or (y > front[-1][1] if higher else y < front[-1][1]):
            front.append((x, y))
    return front


def spread(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places of labels that begin at the dots (x, y in 0..1), moved up or down until none lies on another, on another's
    dot or outside."""
    moved = list(places)
    labels: list[tuple[float, float]] = []
    for i in sorted(range(len(places)), key=lambda i: places[i][1]):
        x, y = places[i]
        dots = [place for place in places if x < place[0] < x + LABEL]

        def free(step: float, x: float = x, dots: list[tuple[float, float]] = dots) -> bool:
            apart = all(abs(step - taken) >= ROOM for other, taken in labels if abs(other - x) < LABEL)
            return apart and 0 <= step <= 1 and all(abs(step - taken) >= 0.7 * ROOM for _, taken in dots)

        steps = (y + sign * k * ROOM / 4 for k in range(4 * len(places) + 8) for sign in (1, -1))
        moved[i] = (x, next(filter(free, steps), y))
        labels.append(moved[i])
    return moved


def _trade_off(document: Document, names: Sequence[str], metric: MetricWords, cost: Cost, name: str) -> TradeOff:
    """`metric` with its interval over the cost of every candidate that has both."""
    cost_name, costs, axis = cost
    figures = [candidate.summary.get(metric.name) for candidate in document.candidates]
    shown = {
        index: (x, figure.value, figure.interval)
        for index, (x, figure) in enumerate(zip(costs, figures, strict=True))
        if x is not None and figure and figure.value is not None and math.isfinite(x) and math.isfinite(figure.value)
    }

    def draw(axes: Axes) -> None:
        right = 1.35 * max(x for x, _, _ in shown.values()) or 1  # room for the labels
        best = pareto([(x, y) for x, y, _ in shown.values()], metric.better == "higher")
        if len(best) > 1:
            axes.plot(*zip(*best, strict=True), color=FAINT, linewidth=1, dashes=(4, 3), zorder=1)
        for index, (x, y, interval) in shown.items():
            if interval and all(map(math.isfinite, interval)):  # need not hold its value: draw it by itself
                axes.plot([x, x], interval, color=colour(index), linewidth=1.2, alpha=0.5)
            axes.plot([x], [y], "o", color=colour(index), markersize=7)
        axes.set_xlabel(axis)
        axes.set_ylabel(f"{plain(metric.title, 30)}, {metric.better} is better")
        axes.set_xlim(0, right)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high)
        places = [(x / right, (y - low) / (high - low)) for x, y, _ in shown.values()]
        for index, (x, _), (_, place) in zip(shown, places, spread(places), strict=True):
            ratio = document.compression(index)
            size = "" if ratio is None or cost_name != "size" else f" {number(ratio[1], 1)}x"
            axes.text(
                x + 0.025, place, plain(names[index]) + size, color=colour(index), fontsize=9, va="center",
                transform=axes.transAxes,
            )  # fmt: skip

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
    return _STYLE.sub(lambda style: _COLOUR.sub(lambda c: _VARIABLES.get(c[0], c[0]), style[0]), text).strip()
