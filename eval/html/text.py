"""Data as text of the page: every name is cleaned here, every number is written here; the templates escape."""

from __future__ import annotations

import json
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from qvggt import numbers

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = "qvggt.eval.html"
NOT_MEASURED = "not measured"
LONGEST = 160  # characters of a name
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#e07b00", "#9467bd", "#0e9aa8", "#8c564b", "#d053a8", "#8a8b12", "#4d4d4d")
"""Of candidates, in charts; page.css has them as --c0, --c1, ... for either theme."""


def plain(value: str, longest: int = LONGEST) -> str:
    """Without control characters and lone surrogates, and not longer than `longest`."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """ "not measured" for None; not finite numbers as words."""
    return numbers.number(value, digits, sign, NOT_MEASURED)


def span(interval: tuple[float, float] | None, digits: int, sign: bool = False) -> str:
    """[low, high]; a dash without an interval (one sequence)."""
    if interval is None:
        return "\N{EN DASH}"
    return f"[{number(interval[0], digits, sign)}, {number(interval[1], digits, sign)}]"


def short(value: float | None, digits: int = 2) -> str:
    """With so many digits that count."""
    return NOT_MEASURED if value is None else f"{value:.{digits}g}"


def megabytes(count: float | None) -> str:
    return NOT_MEASURED if count is None else f"{count / 1e6:,.2f} MB"


def milliseconds(seconds: float | None) -> str:
    return NOT_MEASURED if seconds is None else f"{number(1000 * seconds, 1)} ms"


def colour(index: int) -> str:
    """Of a candidate, for a chart."""
    return COLOURS[index % len(COLOURS)]


def variable(index: int | None) -> str:
    """The CSS variable with a candidate's colour; None: of the ground truth."""
    return "--truth" if index is None else f"--c{index % len(COLOURS)}"


def asset(name: str, package: str = HERE) -> str:
    """The text of a file of this package, or of another."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def environment(package: str = HERE) -> Environment:
    """Of a package's templates: all they print is cleaned (`plain`) and escaped, a name they do not know fails."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup, escape

    def clean(value: Any) -> Any:
        return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = Environment(
        autoescape=True,
        finalize=clean,
        loader=FunctionLoader(partial(asset, package=package)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    made.filters |= {f.__name__: f for f in (number, span, short, megabytes, milliseconds, variable)}
    made.filters["longer"] = lambda value, longest: escape(plain(value, longest))
    made.filters["json"] = json.dumps
    made.globals["NOT_MEASURED"] = NOT_MEASURED
    return made
