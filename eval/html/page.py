"""The whole page, and its file.

Everything lies inside: styles, script, pictures, points. A content security policy forbids every request, and every
script but ours, so that a name from a data set can do nothing even if escaping failed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvggt.eval.html.charts import LOWEST, layer_charts, trade_offs
from qvggt.eval.html.cloud import packed
from qvggt.eval.html.document import Document, parse_document, read_document
from qvggt.eval.html.names import short_names
from qvggt.eval.html.pictures import scale_bar
from qvggt.eval.html.scenes import scenes
from qvggt.eval.html.text import asset, environment
from qvggt.eval.html.verdict import deciding_metrics, headline, verdicts
from qvggt.files import atomic_write

LIBRARY = "vendor/three.min.js"
USUAL = ("auc30", "auc15", "auc5", "auc3", "abs_rel", "delta1", "head_acc", "head_comp", "head_nc", "unproj_acc")


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
    """`write_page` of a file of `qvggt eval --json`. QvggtError when it is no such file."""
    write_page(path, read_document(source), Path(source).parent)


def render(document: Document, folder: Path) -> str:
    """The page as text."""
    names = short_names(document.candidates)
    found, shown = verdicts(document, names), scenes(document, names, folder)
    # the library lies compressed in the page, and only where there is something to look at
    library = asset(LIBRARY) if any(scene.shown for scene in shown) else ""
    script = asset("viewer.js")
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            document=document,
            names=names,
            headline=headline(document, names, found),
            verdicts=found,
            deciding=[metric.title for metric in deciding_metrics(document)],
            usual_metrics=USUAL,
            lowest=LOWEST,
            scale_bar=scale_bar(),
            style=asset("page.css"),
            script=script,
            library=packed(library.encode()) if library else "",
            hashes=[_hash(text) for text in (script, library) if text],
            trade_offs=trade_offs(document, names),
            layer_charts=layer_charts(document),
            scenes=shown,
        )
    )


def _hash(script: str) -> str:
    """As a content security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
