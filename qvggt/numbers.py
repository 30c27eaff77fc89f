"""Numbers as text, for every table there is: in terminals, on pages and in Markdown."""

from __future__ import annotations

import math
import re

_MINUS_ZERO = re.compile(r"(?<![\w.])-(?=0(?:\.0*)?(?![\d.e]))")


def number(value: float | None, digits: int, sign: bool = False, missing: str = "-") -> str:
    """With so many decimals, never "-0.00"; `missing` for None, not finite numbers as words."""
    if value is None:
        return missing
    if not math.isfinite(value):
        return str(float(value))
    return filled("{:+.{}f}" if sign else "{:.{}f}", value, digits)


def filled(form: str, *values: object) -> str:
    """`form.format(...)`, in which what rounds to zero is not negative: "-0.00" becomes "0.00", after a "+" in the form
    "+0.00"."""
    return _MINUS_ZERO.sub("+" if "+" in form else "", form.format(*values))
