"""The whole page, and its file.

Everything lies inside: styles, script, pictures, points. A content security policy forbids every request, and every
script but ours, so that a name from a data set can do nothing even if escaping failed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from qvggt.eval.html.charts import layer_charts, trade_off
from qvggt.eval.html.document import Candidate, Document, Metric, parse_document, read_document
from qvggt.eval.html.scenes import scene_sections
from qvggt.eval.html.tables import candidates_table, category_table, pairs_table, parity_table, summary_tables
from qvggt.eval.html.text import NOT_MEASURED, safe
from qvggt.files import atomic_write

CHARTED = ("auc30", "unproj_acc", "head_acc", "abs_rel")  # the first that was measured, and the next of another kind


def write_page(path: str | Path, document: Document, folder: str | Path) -> None:
    """Write the page atomically. folder: where the stored sequences of `document.worst` are relative to.

    QvggtError when the place refuses it or a stored sequence is damaged; nothing is written then.
    """
    text = render(document, Path(folder))
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def page_of_report(path: str | Path, report: Mapping[str, Any], folder: str | Path) -> None:
    """`write_page` of what `report.make_report` returned."""
    write_page(path, parse_document(report, str(path)), folder)


def page_of_file(path: str | Path, source: str | Path) -> None:
    """`write_page` of a file of `qvggt-eval --json`. QvggtError when it is no such file."""
    write_page(path, read_document(source), Path(source).parent)


def render(document: Document, folder: Path) -> str:
    """The page as text."""
    script = _asset("viewer.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title = f"qvggt-eval: {safe(document.dataset)}"
    sections = [(key, words, body) for key, words, body in _sections(document, folder)]
    links = "".join(f'<a href="#{key}">{words}</a>' for key, words, _ in sections)
    body = "\n".join(f'<h2 id="{key}">{words}</h2>\n{content}' for key, words, content in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{_asset("page.css")}</style>
</head>
<body>
<h1>{title}</h1>
<p>{_lead(document)}</p>
<nav>{links}</nav>
{"".join(f'<p class="note">{safe(note, 600)}</p>' for note in document.notes)}
{body}
<script>{script}</script>
</body>
</html>
"""


def _sections(document: Document, folder: Path) -> list[tuple[str, str, str]]:
    words = (
        "<p>Value and its 95 % interval (bootstrap over sequences); below it the change against the first candidate, "
        'paired. <span class="better">Green</span> and <span class="worse">red</span>: the interval of the change '
        "leaves zero out.</p>"
    )
    return [
        ("results", "Results", words + summary_tables(document)),
        ("costs", "Size, time, memory", candidates_table(document) + _charts(document)),
        ("layers", "Layers", layer_charts(document)),
        ("by-category", "Categories", category_table(document)),
        ("outputs", "Parity of outputs", parity_table(document)),
        ("worst", "Worst sequences", scene_sections(document, folder)),
        ("setup", "How it was measured", _setup(document)),
    ]


def _lead(document: Document) -> str:
    count = len(document.candidates)
    frames = "" if document.frame_list is None else f", frame list <code>{safe(document.frame_list[:12])}</code>"
    return (
        f"{count} {'candidate' if count == 1 else 'candidates'} on the same {document.sequences} "
        f"{'sequence' if document.sequences == 1 else 'sequences'}{frames}. "
        f"The first, {safe(document.candidates[0].label)}, is what the others are compared with."
    )


def _charts(document: Document) -> str:
    metrics = _charted(document)
    if not metrics:
        return f'<p class="none">{NOT_MEASURED}: no metric to draw</p>'
    parts = []
    for order, metric in enumerate(metrics):  # ids by order: names are data
        parts += [
            trade_off(document, metric, _megabytes, "size of the files, MB", f"size-{order}"),
            trade_off(document, metric, lambda c: c.p50, "p50 of one forward pass, s", f"time-{order}"),
        ]
    return f'<div class="charts">{"".join(parts)}</div><p><small>Bars: 95 % intervals.</small></p>'


def _charted(document: Document) -> list[Metric]:
    """One of pose, and one of geometry."""
    measured = {m.name: m for m in document.measured()}
    found = [measured[name] for name in CHARTED if name in measured] or list(measured.values())
    return found[:2]


def _megabytes(candidate: Candidate) -> float | None:
    return None if candidate.bytes is None else candidate.bytes / 1e6


def _setup(document: Document) -> str:
    config = {key: value if isinstance(value, str) else json.dumps(value) for key, value in document.config.items()}
    facts = {
        "configuration sha256": document.config_sha256 or "unknown",
        "frame list sha256": document.frame_list or "unknown",
    }
    candidates = {c.label: f"{c.file or 'unknown'} (sha256 {c.sha256 or 'unknown'})" for c in document.candidates}
    parts = (
        ("files of the candidates", candidates),
        ("configuration", {**config, **facts}),
        ("versions", dict(document.versions)),
        ("units", dict(document.units)),
    )
    return "\n".join(
        f"<details><summary>{title}</summary>{pairs_table(title, entries)}</details>" for title, entries in parts
    )


def _asset(name: str) -> str:
    return files("qvggt.eval.html").joinpath(name).read_text(encoding="utf-8")
