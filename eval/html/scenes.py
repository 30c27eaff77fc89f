"""The worst sequences: frames, depth maps on one colour scale, and points and cameras in 3D."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np

from qvggt.eval.html.cloud import points_per_cloud, viewer_data
from qvggt.eval.html.document import Document, Worst
from qvggt.eval.html.pictures import data_uri, depth_colours, depth_range, evenly, relative_error, scale_bar
from qvggt.eval.html.stored import Array, Stored, read_stored
from qvggt.eval.html.tables import name_of
from qvggt.eval.html.text import NOT_MEASURED, cell, number, safe, swatch, table

FRAMES = 4  # shown of a sequence
PICTURES = 600  # most pictures of a page: 3 kB each


def scene_sections(document: Document, folder: Path) -> str:
    """HTML of every stored sequence; their files lie relative to `folder`. QvggtError for a damaged file."""
    if not document.worst:
        return f'<p class="none">{NOT_MEASURED}: no predictions were stored; run qvggt-eval with --store DIR</p>'
    count = len(document.candidates)
    most = points_per_cloud(len(document.worst) * (count + 1))
    frames = max(min(FRAMES, PICTURES // (len(document.worst) * (2 * count + 1))), 1)
    parts = []
    for entry in document.worst:
        # ".." is taken by name, as it was made: the folder of the page may not exist yet, or be a link
        stored = read_stored(Path(os.path.normpath(folder.absolute() / entry.file)), count)
        parts.append(f'<section class="sequence"><h3>{safe(entry.sequence)}</h3>{_values(document, entry)}')
        if stored is None:
            parts.append(f'<p class="none">pictures not available: {safe(entry.file)} is missing</p></section>')
            continue
        parts.append(_pictures(document, stored, frames))
        parts.append(_viewer(document, entry, stored, most))
        parts.append("</section>")
    return "\n".join(parts)


def _values(document: Document, entry: Worst) -> str:
    metric = next((m for m in document.metrics if m.name == entry.metric), None)
    digits = 2 if metric is None else metric.digits
    first = entry.values[0]
    rows = []
    for index, value in enumerate(entry.values):
        known = index and value is not None and first is not None
        delta = number(value - first, digits, True) if known else ""  # type: ignore[operator]
        rows.append([cell(name_of(document, index), "th"), cell(number(value, digits)), cell(delta)])
    return table(("candidate", safe(entry.metric if metric is None else metric.title), "change"), rows)


def _pictures(document: Document, stored: Stored, most: int) -> str:
    """Rows: frames, ground truth, and per candidate its depth and its distance from the first candidate's."""
    chosen = evenly(len(stored.images), most)
    base = stored.candidates[0].depth
    low, high = depth_range([stored.truth.depth, *(view.depth for view in stored.candidates)])
    rows = [[cell("input frames", "th"), *(_picture(stored.images[i], f"frame {stored.frames[i]}") for i in chosen)]]
    rows.append(_depths(f"{swatch(None)}ground truth", stored.truth.depth, chosen, low, high))
    for index, view in enumerate(stored.candidates):
        rows.append(_depths(name_of(document, index), view.depth, chosen, low, high))
        if index and view.depth is not None and base is not None:
            pairs = [relative_error(view.depth[i], base[i]) for i in chosen]
            middle = [number(100 * median, 2) if math.isfinite(median) else "nothing known" for _, median in pairs]
            title = "<small>distance from the first candidate's depth: black 0, white 10 % or more</small>"
            rows.append(
                [cell(title, "th"), *(_picture(p, f"median {m} %") for (p, _), m in zip(pairs, middle, strict=True))]
            )
    note = (
        "" if len(chosen) == len(stored.images) else f"<p>{len(chosen)} of {len(stored.images)} frames are shown.</p>"
    )
    scale = (
        f'<p class="scale">depth {low:.3g} <img src="{scale_bar()}" alt="colours from near to far"> {high:.3g} '
        "<small>units of the ground truth (without one: of the first candidate), each candidate times its own scale; "
        "grey: unknown</small></p>"
    )
    head = ["", *(f"frame {int(stored.frames[i])}" for i in chosen)]
    return f'{note}<div class="maps">{table(head, rows)}</div>{scale}'


def _depths(title: str, depth: Array | None, chosen: list[int], low: float, high: float) -> list[str]:
    if depth is None:
        return [cell(title, "th"), cell(NOT_MEASURED)]
    return [cell(title, "th"), *(_picture(depth_colours(depth[i], low, high), "depth") for i in chosen)]


def _picture(pixels: Array, title: str) -> str:
    return cell(f'<img src="{data_uri(pixels.astype(np.uint8))}" alt="{safe(title)}" title="{safe(title)}">')


def _viewer(document: Document, entry: Worst, stored: Stored, most: int) -> str:
    """First visible: the first candidate and the one that loses most."""
    known = [(value, i) for i, value in enumerate(entry.values) if i and value is not None and math.isfinite(value)]
    shown = {0, min(known)[1] if known else len(entry.values) - 1}
    data = viewer_data(stored, [candidate.label for candidate in document.candidates], shown, most)
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        "<p>Points and cameras in the frame of the first camera, each candidate times its own scale. Drag to rotate, "
        "shift and drag to move, wheel to zoom.</p>"
        f'<div class="viewer"><script type="application/json">{text}</script>'
        "<noscript>The 3D view needs JavaScript.</noscript></div>"
    )
