"""The charts of the page: SVG by matplotlib, fit to stand inside HTML."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qvggt.eval.html.document import Candidate, Document, Metric
from qvggt.eval.html.text import NOT_MEASURED, cell, colour, number, plain, safe, swatch, table

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
NAMED_LAYERS = 48  # more layers than this get numbers instead of names
LOWEST = 5
_DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
_NAMESPACE = re.compile(r' xmlns(:xlink)?="[^"]*"')
_GROUP = re.compile(r' id="[A-Za-z0-9.]+_\d+"')  # the same in every figure; nothing refers to them


def trade_off(
    document: Document, metric: Metric, cost: Callable[[Candidate], float | None], axis: str, name: str
) -> str:
    """`metric` with its interval over a cost of every candidate; candidates without one of the two are named below.

    axis: the words of the x axis. name: the id of the figure, unique on the page.
    """
    shown: list[tuple[int, float, float, tuple[float, float] | None]] = []
    absent = []
    for index, candidate in enumerate(document.candidates):
        figure, x = candidate.summary.get(metric.name), cost(candidate)
        if (
            figure is None
            or figure.value is None
            or x is None
            or not (math.isfinite(figure.value) and math.isfinite(x))
        ):
            absent.append(f"{swatch(index)}{safe(candidate.label)}")
            continue
        interval = figure.interval
        shown.append((index, x, figure.value, interval if interval and all(map(math.isfinite, interval)) else None))
    note = f'<p class="none">{NOT_MEASURED}: {", ".join(absent)}</p>' if absent else ""
    if not shown:
        return note

    def draw(axes: Axes) -> None:
        for index, x, y, interval in shown:
            if interval is not None:  # an interval need not hold its value: draw it by itself
                axes.plot([x, x], interval, color=colour(index), linewidth=1.2, alpha=0.6)
            axes.plot([x], [y], "o", color=colour(index), markersize=7)
        axes.set_xlabel(axis)
        axes.set_ylabel(plain(f"{metric.title} ({metric.unit})", 60))
        axes.set_xlim(0, 1.1 * max(x for _, x, _, _ in shown) or 1)

    return f'<figure id="{name}">{svg(draw, 5.4, 3.6, name)}{note}</figure>'


def layer_charts(document: Document) -> str:
    """One chart per kind of measure, over the layers in the order of the model; the lowest layers as a table."""
    groups: dict[str, list[int]] = {}
    for index, candidate in enumerate(document.candidates):
        if candidate.layers is not None and candidate.layers.rows:
            groups.setdefault(candidate.layers.measure, []).append(index)
    if not groups:
        return f'<p class="none">{NOT_MEASURED}: no candidate has a table of its layers beside it</p>'
    return "\n".join(_layer_chart(document, m, group, i) for i, (m, group) in enumerate(groups.items()))


def _layer_chart(document: Document, measure: str, group: Sequence[int], order: int) -> str:
    tables = {i: layers.rows for i in group if (layers := document.candidates[i].layers) is not None}
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

    name = f"layers-{order}"
    lowest = []
    for index, rows in tables.items():
        finite = sorted((value, path) for path, value in rows if value is not None and not math.isnan(value))
        lowest += [
            [
                cell(f"{swatch(index)}{safe(document.candidates[index].label)}", "th"),
                cell(safe(path)),
                cell(number(v, 1)),
            ]
            for v, path in finite[:LOWEST]
        ]
    return (
        f"<h3>{safe(measure)}</h3><p>{', '.join(f'{swatch(i)}{safe(document.candidates[i].label)}' for i in group)}</p>"
        f'<figure id="{name}">{svg(draw, 10.5, 3.8, name)}</figure>'
        f"<details><summary>the {LOWEST} lowest layers of each</summary>"
        f"{table(('candidate', 'layer', 'dB'), lowest)}</details>"
    )


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
