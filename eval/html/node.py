"""Values of a JSON document that know where they stand, so that a mistake can be named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from qvggt.errors import QvggtError

WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # numbers JSON has no word for


@dataclass(frozen=True)
class Node:
    """A value and its place: `file` and a path such as "candidates[0].label"."""

    value: Any
    file: str
    path: str = ""

    def fail(self, expected: str) -> NoReturn:
        got = "nothing" if self.value is None else f"{type(self.value).__name__} {str(self.value)[:60]!r}"
        raise QvggtError(
            f"{self.file}: {self.path or 'the document'}: expected {expected}, got {got}; "
            "give what qvggt-eval --json wrote"
        )

    def __getitem__(self, key: str) -> Node:
        """The value under a key; None where it, or the whole object, is missing."""
        if self.value is not None and not isinstance(self.value, dict):
            self.fail("an object")
        return Node((self.value or {}).get(key), self.file, f"{self.path}.{key}" if self.path else key)

    def __iter__(self) -> Iterator[Node]:
        """The elements of a list; a missing list is empty."""
        if self.value is not None and not isinstance(self.value, list):
            self.fail("a list")
        for index, value in enumerate(self.value or ()):
            yield Node(value, self.file, f"{self.path}[{index}]")

    def items(self) -> Iterator[tuple[str, Node]]:
        """The entries of an object; a missing object is empty."""
        if self.value is not None and not isinstance(self.value, dict):
            self.fail("an object")
        for key in self.value or ():
            yield key, self[key]

    @property
    def missing(self) -> bool:
        return self.value is None

    def text(self) -> str:
        if not isinstance(self.value, str):
            self.fail("text")
        return self.value

    def words(self) -> str | None:
        """Text or nothing."""
        return None if self.value is None else self.text()

    def number(self) -> float | None:
        """A number (maybe not finite), or None for null."""
        if self.value is None:
            return None
        if isinstance(self.value, str) and self.value in WORDS:
            return WORDS[self.value]
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.fail("a number")
        try:
            return float(self.value)
        except OverflowError:
            self.fail("a number that fits in 64 bits")

    def count(self) -> int | None:
        """A whole number, not negative, or None for null."""
        value = self.number()
        if value is None:
            return None
        if not math.isfinite(value) or value < 0 or value != int(value):
            self.fail("a count")
        return int(value)

    def pair(self) -> tuple[float, float] | None:
        """[low, high], or None for null."""
        if self.value is None:
            return None
        found = [node.number() for node in self]
        if len(found) != 2 or found[0] is None or found[1] is None:
            self.fail("two numbers")
        return found[0], found[1]
