"""`--override PATTERN=BITS`: another number format for some modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from qvggt.errors import QvggtError
from qvggt.models.family import find_family
from qvggt.quant.scheme import Scheme


def with_overrides(scheme: Scheme, words: Sequence[str]) -> Scheme:
    """The scheme with what the words add; QvggtError for one that is no PATTERN=BITS."""
    pairs = []
    for word in words:
        pattern, equals, bits = word.rpartition("=")
        if not (pattern and equals and bits):
            raise QvggtError(f"--override {word!r}: expected PATTERN=BITS, e.g. {find_family().override_example}=w4a16")
        pairs.append((pattern, bits))
    return dataclasses.replace(scheme, overrides=(*scheme.overrides, *pairs))
