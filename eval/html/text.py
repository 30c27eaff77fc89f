"""Data as HTML text: every string is escaped here, every number is written here."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable

NOT_MEASURED = "not measured"
LONGEST = 160  # characters of a name
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf", "#8c564b", "#e377c2", "#bcbd22", "#4d4d4d")
TRUTH = "#808080"


def plain(value: str, longest: int = LONGEST) -> str:
    """Without control characters and lone surrogates, and not longer than `longest`."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


def safe(value: object, longest: int = LONGEST) -> str:
    """Text for an element or a quoted attribute."""
    return html.escape(plain(str(value), longest), quote=True)


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """ "not measured" for None; not finite numbers as words."""
    if value is None:
        return NOT_MEASURED
    if not math.isfinite(value):
        return str(value)
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def span(interval: tuple[float, float] | None, digits: int, sign: bool = False) -> str:
    """[low, high]; a dash without an interval (one sequence)."""
    if interval is None:
        return "\N{EN DASH}"
    return f"[{number(interval[0], digits, sign)}, {number(interval[1], digits, sign)}]"


def megabytes(count: float | None) -> str:
    return NOT_MEASURED if count is None else f"{count / 1e6:,.2f} MB"


def milliseconds(seconds: float | None) -> str:
    return NOT_MEASURED if seconds is None else f"{number(1000 * seconds, 1)} ms"


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def swatch(index: int | None) -> str:
    """A small square in the colour of a candidate (None: of the ground truth)."""
    return f'<i class="swatch" style="background:{TRUTH if index is None else colour(index)}"></i>'


def cell(content: str, tag: str = "td", kind: str = "") -> str:
    """`content` is HTML."""
    missing = " none" if content == NOT_MEASURED else ""
    names = f"{kind}{missing}".strip()
    return f'<{tag} class="{names}">{content}</{tag}>' if names else f"<{tag}>{content}</{tag}>"


def table(head: Iterable[str], rows: Iterable[Iterable[str]], name: str = "") -> str:
    """Of HTML: `head` are cells' contents, `rows` are finished cells."""
    top = "".join(cell(text, "th") for text in head)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    identity = f' id="{name}"' if name else ""
    return (
        f'<div class="wide"><table{identity}>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )
