"""Numbers as text."""

from __future__ import annotations

import math

import pytest

from qvggt.numbers import filled, number


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (-0.00004, 4, False, "0.0000"),
        (-0.00004, 4, True, "+0.0000"),
        (-0.0, 0, False, "0"),
        (0.0, 2, True, "+0.00"),
        (-0.06, 1, False, "-0.1"),
        (-10.0, 1, True, "-10.0"),
        (None, 2, False, "-"),
        (math.nan, 2, True, "nan"),
        (-math.inf, 2, False, "-inf"),
    ],
)
def test_nothing_has_no_minus(value: float | None, digits: int, sign: bool, text: str) -> None:
    assert number(value, digits, sign) == text


def test_forms_with_words() -> None:
    assert filled("{:+.2f} to {:+.2f} points", -0.001, -0.01) == "+0.00 to -0.01 points"
    assert filled("{:.1f} dB", -0.01) == "0.0 dB"
    assert filled("{}", "fp-0.0") == "fp-0.0"
