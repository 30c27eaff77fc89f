"""Frozen dataclasses read strictly from mappings such as parsed JSON: a mistake is one line that names its key."""

from __future__ import annotations

import math
import re
from collections import abc
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from qvggt.errors import QvggtError

T = TypeVar("T")

NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # our JSON's words for what JSON has no number for
NAMES = {
    str: ("a string", "strings"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "truth values"),
    NoneType: ("null", "nulls"),
    Any: ("anything", "anything"),
    Path: ("a path", "paths"),
}
COUNTS = ("no", "one", "two", "three", "four", "five", "six")
_NO = object()  # a value is not of the type


@dataclass(frozen=True)
class Check:
    """What a value must be beyond its type, as in `Annotated[int, Check("a count", lambda value: value >= 0)]`.

    low, high: the smallest and largest value it lets pass, where it is about a range.
    """

    words: str
    holds: Callable[[Any], bool]
    low: float | None = None
    high: float | None = None


def at_least(low: float) -> Check:
    """Numbers of that size or larger; where None may stand for the number, it does."""
    return Check(f"{low} or more", lambda value: value is None or value >= low, low)


def between(low: float, high: float) -> Check:
    """Numbers from `low` to `high`, both included; where None may stand for the number, it does."""
    return Check(f"{low} to {high}", lambda value: value is None or low <= value <= high, low, high)


Count = Annotated[int, Check("a count", lambda value: value >= 0)]
Sha256 = Annotated[str, Check("64 hex digits", lambda text: re.fullmatch("[0-9a-f]{64}", text) is not None)]


def from_mapping(cls: type[T], values: object, where: str, *, advice: str = "", ignore_unknown: bool = False) -> T:
    """A dataclass of its fields by name; fields with a default may be missing.

    Fields are str, int, float, bool, None, Path, Literal, tuples and sequences (both become tuples), mappings (keys:
    str or int), dataclasses, unions of these, Any, and Annotated with a `Check` (other annotations say nothing here).
    Text is a path, the text of an integer is an int as a mapping's key, an integer or "nan", "inf", "-inf" is a float;
    nothing else is converted, and a bool is no number. ignore_unknown: keys that are no field are passed over, in
    nested objects too.

    QvggtError "WHERE: KEY: expected this, got that; ADVICE" or "WHERE: unknown key 'KEY', expected ..."; keys of nested
    values are paths such as candidates[0].label. What `__post_init__` raises passes unchanged.
    """
    return _Reader(where, advice, ignore_unknown).read(cls, values, "")


def read_value(hint: Any, value: object, where: str) -> Any:
    """`value` as a field of type `hint` wants it; QvggtError "WHERE: expected this, got that"."""
    return _Reader(where, "", False).read(hint, value, "")


@dataclass(frozen=True)
class _Reader:
    where: str
    advice: str
    ignore_unknown: bool

    def fail(self, problem: str) -> NoReturn:
        line = "".join(c if c.isprintable() else "?" for c in problem)  # keys may hold anything
        raise QvggtError(f"{self.where}: {line}{'; ' if self.advice else ''}{self.advice}")

    def mismatch(self, expected: str, path: str, value: object) -> NoReturn:
        got = "null" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
        self.fail(f"{path}{': ' if path else ''}expected {expected}, got {got}")

    def read(self, hint: Any, value: object, path: str) -> Any:
        result = self.match(hint, value, path)
        if result is _NO:
            self.mismatch(type_words(hint), path, value)
        return result

    def match(self, hint: Any, value: object, path: str) -> Any:
        """`value` as `hint` wants it, or _NO. Raises for what is wrong inside a dataclass, and for a failed check."""
        origin, options = get_origin(hint), get_args(hint)
        if hint is Any:
            return value
        if origin in (Union, UnionType):
            if value is None and NoneType in options:
                return None  # no check of the other options is asked
            matches = (self.match(option, value, path) for option in options)
            return next((match for match in matches if match is not _NO), _NO)
        if origin is Annotated:
            match = self.match(options[0], value, path)
            for check in options[1:] if match is not _NO else ():
                if isinstance(check, Check) and not check.holds(match):
                    self.mismatch(check.words, path, value)
            return match
        if origin is Literal:
            return next((option for option in options if option == value and type(option) is type(value)), _NO)
        if hint is float:
            return _number(value)
        if hint is Path:
            return Path(value) if isinstance(value, str | Path) and str(value) else _NO
        if hint in NAMES:
            return value if type(value) is hint else _NO
        if origin in (tuple, abc.Sequence):
            kinds = options if origin is tuple else (*options, ...)
            return self.elements(kinds, value, path) if isinstance(value, list | tuple) else _NO
        if origin in (abc.Mapping, dict):
            return self.entries(options, value, path) if isinstance(value, Mapping) else _NO
        if isinstance(hint, type) and is_dataclass(hint):
            return self.record(hint, value, path) if isinstance(value, Mapping) else _NO
        raise TypeError(f"{path}: from_mapping reads no {hint}")

    def elements(self, kinds: tuple[Any, ...], values: abc.Sequence[object], path: str) -> Any:
        if kinds[1:] == (...,):
            kinds = kinds[:1] * len(values)
        if len(kinds) != len(values):
            return _NO
        pairs = zip(kinds, values, strict=True)
        matches = tuple(self.match(kind, value, f"{path}[{i}]") for i, (kind, value) in enumerate(pairs))
        return _NO if any(match is _NO for match in matches) else matches

    def entries(self, kinds: tuple[Any, ...], values: Mapping[Any, object], path: str) -> Any:
        matches = {_key(kinds[0], key): self.match(kinds[1], value, f"{path}.{key}") for key, value in values.items()}
        return _NO if any(_NO in entry for entry in matches.items()) else matches

    def record(self, cls: Any, values: Mapping[Any, object], path: str) -> Any:
        prefix = f"{path}." if path else ""
        hints = _hints(cls)
        unknown = sorted(str(key) for key in values if key not in hints)
        if unknown and not self.ignore_unknown:
            self.fail(f"unknown key {prefix + unknown[0]!r}, expected {', '.join(sorted(hints))}")
        for field in fields(cls):
            if field.name in hints and field.name not in values and field.default is field.default_factory is MISSING:
                self.fail(f"{prefix}{field.name}: expected {type_words(hints[field.name])}, got nothing")
        return cls(**{name: self.read(hints[name], values[name], prefix + name) for name in hints if name in values})


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls) if field.init}


def _number(value: object) -> Any:
    if isinstance(value, str):
        return NUMBERS.get(value, _NO)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _NO
    try:
        return float(value)
    except OverflowError:
        return _NO


def _key(kind: type, key: object) -> object:
    if kind is int and isinstance(key, str) and key.removeprefix("-").isdecimal():
        return int(key)
    return key if type(key) is kind else _NO


def type_words(hint: Any, many: bool = False) -> str:
    """What a field's type asks for, in words: "a string", "a list of integers or null"."""
    origin, options = get_origin(hint), get_args(hint)
    if hint in NAMES:
        return NAMES[hint][many]
    if origin in (Union, UnionType):
        return " or ".join(type_words(option, many) for option in options)
    if origin is Annotated:
        return type_words(options[0], many)
    if origin is Literal:
        return f"one of {', '.join(map(str, options))}"
    if origin in (tuple, abc.Sequence):
        if origin is not tuple or options[1:] == (...,):
            return f"{'lists' if many else 'a list'} of {type_words(options[0], True)}"
        if len(set(options)) == 1 and len(options) < len(COUNTS):
            text = f"{COUNTS[len(options)]} {type_words(options[0], len(options) > 1)}"
            return f"lists of {text}" if many else text
        return f"{'lists' if many else 'a list'} of {', '.join(type_words(option) for option in options)}"
    objects = "objects" if many else "an object"
    return f"{objects} of {type_words(options[1], True)}" if options and options[1] is not Any else objects
