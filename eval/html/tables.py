"""The tables of the page, as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping

from qvggt.eval.html.document import Candidate, Document, Figure, Metric
from qvggt.eval.html.text import (
    NOT_MEASURED,
    cell,
    megabytes,
    milliseconds,
    number,
    safe,
    span,
    swatch,
    table,
)

HEADLINE = ("auc30", "auc15", "auc5", "auc3", "abs_rel", "delta1", "head_acc", "head_comp", "head_nc", "unproj_acc")


def name_of(document: Document, index: int) -> str:
    return f"{swatch(index)}{safe(document.candidates[index].label)}"


def candidates_table(document: Document) -> str:
    """What each candidate is, and its size, time and memory."""
    head = ("candidate", "scheme", "runs in", "size", "p50", "p99", "passes", "peak memory", "device memory", "sha256")
    return table(head, [_facts(document, i, c) for i, c in enumerate(document.candidates)], "candidates")


def _facts(document: Document, index: int, candidate: Candidate) -> list[str]:
    return [
        cell(name_of(document, index), "th"),
        cell(safe(candidate.scheme or "unknown")),
        cell(safe(candidate.kind or "unknown")),
        cell(megabytes(candidate.bytes)),
        cell(milliseconds(candidate.p50)),
        cell(milliseconds(candidate.p99)),
        cell(NOT_MEASURED if candidate.runs is None else str(candidate.runs)),
        cell(megabytes(candidate.peak_rss)),
        cell(megabytes(candidate.device_memory)),
        cell(f"<code>{safe((candidate.sha256 or 'unknown')[:12])}</code>"),
    ]


def summary_tables(document: Document) -> str:
    """One row per metric, one column per candidate; the usual metrics open, the others folded."""
    measured = document.measured()
    if not measured:
        return f'<p class="none">{NOT_MEASURED}</p>'
    first = [m for m in measured if m.name in HEADLINE] or list(measured)
    rest = [m for m in measured if m not in first]
    parts = [_summary(document, first, "summary")]
    if rest:
        parts.append(f"<details><summary>{len(rest)} more metrics</summary>{_summary(document, rest)}</details>")
    absent = [safe(m.title) for m in document.metrics if m not in measured]
    if absent:
        parts.append(f'<p class="none">{NOT_MEASURED}: {", ".join(absent)}</p>')
    return "\n".join(parts)


def _summary(document: Document, metrics: list[Metric], name: str = "") -> str:
    head = ["metric", *(name_of(document, i) for i in range(len(document.candidates)))]
    rows = []
    for metric in metrics:
        arrow = "\N{UPWARDS ARROW}" if metric.better == "higher" else "\N{DOWNWARDS ARROW}"
        title = f"{safe(metric.title)} {arrow}<small>{safe(metric.unit)}</small>"
        rows.append([cell(title, "th"), *(_figure(metric, c.summary.get(metric.name)) for c in document.candidates)])
    return table(head, rows, name)


def _figure(metric: Metric, figure: Figure | None) -> str:
    if figure is None:
        return cell(NOT_MEASURED)
    text = f"{number(figure.value, metric.digits)} <small>{span(figure.interval, metric.digits)}</small>"
    if figure.delta is None:
        return cell(text)
    change = (
        f"{number(figure.delta, metric.digits, True)} <small>{span(figure.delta_interval, metric.digits, True)}</small>"
    )
    return cell(f'{text}<br><span class="{verdict(metric, figure)}">{change}</span>')


def verdict(metric: Metric, figure: Figure) -> str:
    """ "better" or "worse" where the interval of the change leaves zero out, else "same"."""
    interval = figure.delta_interval
    if interval is None or not all(map(math.isfinite, interval)) or interval[0] <= 0 <= interval[1]:
        return "same"
    return "better" if (interval[0] > 0) == (metric.better == "higher") else "worse"


def category_table(document: Document) -> str:
    """Headline metrics per category and candidate."""
    categories = list(dict.fromkeys(name for c in document.candidates for name in c.categories))
    present = {key for c in document.candidates for _, values in c.categories.values() for key in values}
    metrics = [m for m in document.metrics if m.name in HEADLINE and m.name in present]
    if not categories or not metrics:
        return f'<p class="none">{NOT_MEASURED}</p>'
    rows = []
    for category in categories:
        for index, candidate in enumerate(document.candidates):
            count, values = candidate.categories.get(category, (None, {}))
            rows.append(
                [
                    cell(safe(category), "th"),
                    cell(name_of(document, index), "th"),
                    cell(NOT_MEASURED if count is None else str(count)),
                    *(cell(number(values.get(m.name), m.digits)) for m in metrics),
                ]
            )
    return table(("category", "candidate", "sequences", *(safe(m.title) for m in metrics)), rows, "categories")


def parity_table(document: Document) -> str:
    """SQNR of every output for every pair that was compared, with the largest error and its p99 below."""
    outputs = list(dict.fromkeys(name for pair in document.parity for name in pair.outputs))
    if not outputs:
        return f'<p class="none">{NOT_MEASURED}: one candidate alone has nothing to compare with</p>'
    rows = [
        [
            cell(f"{safe(pair.candidate)} <small>against {safe(pair.reference)}</small>", "th"),
            *(cell(_noise(pair.outputs[name])) if name in pair.outputs else cell(NOT_MEASURED) for name in outputs),
        ]
        for pair in document.parity
    ]
    return table(("pair", *(f"{safe(name)}" for name in outputs)), rows, "parity")


def _noise(entry: Mapping[str, float | None]) -> str:
    return (
        f"{number(entry.get('sqnr_db'), 1)} dB<br><small>max {_short(entry.get('max_error'))}, "
        f"p99 {_short(entry.get('p99'))}</small>"
    )


def _short(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.2g}"


def pairs_table(title: str, entries: dict[str, str]) -> str:
    """Two columns of plain facts."""
    rows = [[cell(safe(key), "th"), cell(safe(value, 400))] for key, value in entries.items()]
    return table((safe(title), ""), rows)
