"""Dataclasses from mappings: what `asdict` gives reads back equal, everything else is one line that names its key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvggt import QvggtError
from qvggt.json_file import jsonable
from qvggt.mapping import Check, Count, Sha256, at_least, between, from_mapping, read_value, type_words

Even = Annotated[int, Check("an even number", lambda value: value % 2 == 0)]


@dataclass(frozen=True)
class Inner:
    name: str
    size: Count = 0
    even: Even = 0


@dataclass(frozen=True)
class Outer:
    flag: bool
    count: int
    ratio: float
    mode: Literal["per-row", "per-token"]
    inner: Inner
    maybe: Inner | None = None
    shape: tuple[int, ...] = ()
    pair: tuple[float, float] | None = None
    overrides: tuple[tuple[str, str], ...] = ()
    inners: tuple[Inner, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    table: Mapping[int, Inner] = field(default_factory=dict)
    anything: Any = None
    either: int | str = 0
    derived: int = field(default=5, init=False)


WHOLE = st.integers(-(2**70), 2**70)
FLOATS = st.floats(allow_nan=False)
TEXT = st.text(max_size=5)
INNERS = st.builds(Inner, TEXT, st.integers(0, 9), WHOLE.map(lambda value: 2 * value))
OUTERS = st.builds(
    Outer, st.booleans(), WHOLE, FLOATS, st.sampled_from(["per-row", "per-token"]), INNERS,
    maybe=st.none() | INNERS,
    shape=st.lists(WHOLE, max_size=3).map(tuple),
    pair=st.none() | st.tuples(FLOATS, FLOATS),
    overrides=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
    inners=st.lists(INNERS, max_size=2).map(tuple),
    words=st.dictionaries(TEXT, TEXT, max_size=2),
    table=st.dictionaries(st.integers(-5, 5), INNERS, max_size=2),
    anything=st.none() | TEXT | st.booleans(),
    either=WHOLE | TEXT,
)  # fmt: skip


def plain(value: Outer) -> dict[str, Any]:
    return {key: entry for key, entry in asdict(value).items() if key != "derived"}


@given(OUTERS)
def test_what_asdict_gives_reads_back(value: Outer) -> None:
    assert from_mapping(Outer, plain(value), "it") == value
    assert from_mapping(Outer, json.loads(json.dumps(jsonable(plain(value)))), "it") == value


OUTER = plain(Outer(True, 3, 0.5, "per-row", Inner("a")))
VALUES: dict[str, object] = {
    "null": None, "a bool": True, "an integer": 3, "a number": 0.5, "a string": "x", "a list": [], "an object": {},
}  # fmt: skip
FITS = {
    "flag": {"a bool"}, "count": {"an integer"}, "ratio": {"an integer", "a number"}, "mode": set(), "inner": set(),
    "maybe": {"null"}, "shape": {"a list"}, "pair": {"null"}, "overrides": {"a list"}, "inners": {"a list"},
    "words": {"an object"}, "table": {"an object"}, "either": {"an integer", "a string"},
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("key", FITS)
def test_every_wrong_type_is_refused_by_name(key: str, kind: str) -> None:
    values = {**OUTER, key: VALUES[kind]}
    if kind in FITS[key]:
        from_mapping(Outer, values, "it")
        return
    with pytest.raises(QvggtError, match=rf"^it: {key}(\.name)?: expected .*, got "):
        from_mapping(Outer, values, "it")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": 1}, "it: unknown key 'surprise', expected anything, count, either"),
        ({"derived": 1}, "it: unknown key 'derived'"),
        ({"inner": {"name": "a", "more": 1}}, "it: unknown key 'inner.more', expected even, name, size"),
        ({"inner": {}}, "it: inner.name: expected a string, got nothing"),
        ({"inners": [{"name": "a"}, {"name": None}]}, "it: inners[1].name: expected a string, got null"),
        ({"inner": {"name": "a", "size": -1}}, "it: inner.size: expected a count, got int '-1'"),
        ({"inner": {"name": "a", "even": 3}}, "it: inner.even: expected an even number, got int '3'"),
        ({"count": "many\n"}, r"it: count: expected an integer, got str 'many\n'"),
        ({"ratio": 10**400}, "it: ratio: expected a number, got int '1000"),
        ({"ratio": "Inf"}, "it: ratio: expected a number, got str 'Inf'"),
        ({"mode": "tensor"}, "it: mode: expected one of per-row, per-token, got str 'tensor'"),
        ({"shape": [1, "2"]}, "it: shape: expected a list of integers, got list "),
        ({"pair": [1]}, "it: pair: expected two numbers or null, got list '[1]'"),
        ({"overrides": [["a", "b"], ["a"]]}, "it: overrides: expected a list of lists of two strings, got list"),
        ({"words": {"a": 1}}, "it: words: expected an object of strings, got dict"),
        ({"words": {1: "a"}}, "it: words: expected an object of strings, got dict"),
        ({"table": {"x": {"name": "a"}}}, "it: table: expected an object of objects, got dict"),
        ({"table": {"1\n": {"name": 2}}}, "it: table.1?.name: expected a string, got int '2'"),
    ],
)
def test_messages(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(QvggtError) as caught:
        from_mapping(Outer, {**OUTER, **changes}, "it")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_mapping(value: object) -> None:
    with pytest.raises(QvggtError, match=r"^it: expected an object, got .*; do it again$"):
        from_mapping(Outer, value, "it", advice="do it again")


def test_unknown_keys_are_passed_over_when_asked() -> None:
    values = {**OUTER, "surprise": 1, "derived": 2, "inner": {"name": "a", "more": 1}}
    assert from_mapping(Outer, values, "it", ignore_unknown=True) == from_mapping(Outer, OUTER, "it")


def test_numbers_that_json_has_no_word_for() -> None:
    assert math.isnan(from_mapping(Outer, {**OUTER, "ratio": "nan"}, "it").ratio)
    assert from_mapping(Outer, {**OUTER, "pair": ["inf", "-inf"]}, "it").pair == (math.inf, -math.inf)
    assert type(from_mapping(Outer, {**OUTER, "ratio": 3}, "it").ratio) is float


@dataclass(frozen=True)
class Unreadable:
    value: complex


@dataclass(frozen=True)
class Hashed:
    sha256: Sha256


def test_a_type_without_a_reading_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="value: from_mapping reads no <class 'complex'>"):
        from_mapping(Unreadable, {"value": 1}, "it")


@pytest.mark.parametrize("text", ["a" * 63, "A" * 64, "a" * 64 + "\n", "g" * 64])
def test_hashes(text: str) -> None:
    assert from_mapping(Hashed, {"sha256": "0a" * 32}, "it").sha256 == "0a" * 32
    with pytest.raises(QvggtError, match="it: sha256: expected 64 hex digits"):
        from_mapping(Hashed, {"sha256": text}, "it")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Count | None, "an integer or null"),
        (tuple[tuple[int, ...], tuple[int, ...]], "two lists of integers"),
        (tuple[str, int], "a list of a string, an integer"),
        (Mapping[str, Any], "an object"),
        (tuple[Inner, ...], "a list of objects"),
    ],
)
def test_words(hint: Any, words: str) -> None:
    assert type_words(hint) == words


def test_null_passes_where_the_type_has_it_whatever_is_checked() -> None:
    """A check asks about values; null is none, whether the type has it inside the check or beside it."""
    named = Annotated[Any, Check("a name", lambda value: isinstance(value, str))]
    for hint in (named | None, Even | None, Annotated[int | None, at_least(1)], Annotated[float | None, between(0, 1)]):
        assert read_value(hint, None, "x") is None
    for hint in (named, named | None):
        with pytest.raises(QvggtError, match=r"x: expected a name, got int '3'"):
            read_value(hint, 3, "x")
    with pytest.raises(QvggtError, match=r"x: expected 1 or more, got int '0'"):
        read_value(Annotated[int | None, at_least(1)], 0, "x")
    with pytest.raises(QvggtError, match="expected a name, got null"):
        read_value(named, None, "x")
