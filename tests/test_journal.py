"""The journal of long jobs: what a kill leaves is a prefix, floats read back exactly, other files are left alone."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvggt.errors import QvggtError
from qvggt.journal import Journal, difference, read_journal
from qvggt.json_file import json_text

IDENTITY = {"seed": 0, "versions": {"torch": "2"}, "size": (70, 98)}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
PAIRS = st.lists(st.tuples(st.text(), VALUES), max_size=5)
SHARED_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def begun(path: Path, what: str = "search", identity: dict[str, Any] = IDENTITY, **more: Any) -> Journal:
    return Journal(path, identity, what, **more)


@SHARED_FOLDER
@given(PAIRS, st.data(), st.sampled_from(["search", "records", "calibration", "selection"]))
def test_a_kill_at_any_byte_leaves_a_prefix(tmp_path: Path, pairs: list[tuple[str, Any]], data: Any, what: str) -> None:
    path = tmp_path / "cut.jsonl"
    path.unlink(missing_ok=True)
    journal = begun(path, what, about={"files": ["a"]})
    states = [{}]
    for key, value in pairs:
        journal.add(key, value)
        states.append(dict(journal.values))
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    kept = path.read_bytes().count(b"\n") - 1
    again = begun(path, what, about={"files": ["a"]})
    assert again.values == states[max(kept, 0)]
    assert again.about == {"files": ["a"]}
    for key, value in pairs[max(kept, 0) :]:
        again.add(key, value)
    assert path.read_bytes() == whole
    assert begun(path, what).values == dict(pairs)


@SHARED_FOLDER
@given(st.binary(max_size=60) | st.sampled_from([b"precious", b"{}\n", b"[1]\n", b"\x00\n1", b"[" * 100_000 + b"\n"]))
def test_another_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    if b'{"qvggt_journal"'.startswith(content):
        begun(path)
        return
    with pytest.raises(QvggtError) as caught:
        begun(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 1}, "holds the search of another configuration (seed was 0, is 1); give another file, or delete it"),
        ({"seed": 1, "size": (3, 4)}, "(differs in seed, size); give another file, or delete it to start anew"),
        ({"versions": {"torch": "2.1"}}, "(differs in versions)"),
        ({"new\n": 1}, "(differs in new\\n)"),
        ({"threads": 8}, "was started with 4 threads, now 8, and results may depend on that; give --threads 4 to go"),
        ({"threads": 8, "seed": 1}, "(differs in seed, threads)"),
    ],
)
def test_another_identity_is_refused_and_named(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    path = tmp_path / "j.jsonl"
    identity = {**IDENTITY, "threads": 4}
    begun(path, identity=identity).add("a", 1)
    path.write_bytes(path.read_bytes() + b'["torn')
    before = path.read_bytes()
    with pytest.raises(QvggtError) as caught:
        begun(path, identity={**identity, **changed})
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert path.read_bytes() == before
    with pytest.raises(QvggtError, match="folder: holds the search of another"):
        begun(path, identity={}, place=tmp_path / "folder")
    begun(path, identity=identity, about={"host": "another"})  # what is only told may differ


def test_another_kind_and_an_older_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    begun(path)
    with pytest.raises(QvggtError, match="expected the selection of qvggt"):
        begun(path, "selection")
    for header in ({"format": 1, "job": {"seed": 0}}, {"qvggt_eval": 1, "config": {}}):
        path.write_text(json.dumps(header) + "\n")
        with pytest.raises(QvggtError, match="was written by an older qvggt; delete it to start anew"):
            begun(path)
    for line in ("[1]", '"x"', '{"a": 1}', "[1, 2]", "nonsense"):
        path.unlink()
        begun(path).add("a", 1)
        path.write_text(f'{path.read_text()}{line}\n["b", 1]\n')
        with pytest.raises(QvggtError, match="line 3: expected"):
            begun(path)


def test_numbers_read_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = [*rng.normal(size=200), 5e-324, -0.0, 1 / 3, np.nextafter(1, 2)]
    journal = begun(tmp_path / "j.jsonl")
    journal.add("x", numbers)
    journal.add("odd", [math.nan, math.inf, -math.inf])
    again = begun(tmp_path / "j.jsonl")
    assert again.values == journal.values
    assert np.array_equal(np.array(again.values["x"]).view(np.int64), np.array(numbers).view(np.int64))
    assert again.values["odd"] == ["nan", "inf", "-inf"]


def test_a_value_is_on_the_disk_when_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "j.jsonl", []
    journal = begun(path)
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(path.read_bytes()) or real(handle))
    journal.add("a", 1)
    assert synced == [path.read_bytes()]
    assert synced[0].endswith(b'["a", 1]\n')


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "j.jsonl"
    journal = begun(path)
    journal.add("a", 1)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(QvggtError, match=r"No space.*free some space and run the same command again"):
            journal.add("b", 2)
    assert path.read_bytes() == before
    assert journal.values == {"a": 1}
    journal.remove()
    with pytest.raises(QvggtError, match="cannot be written"):
        journal.add("b", 2)
    assert not path.exists()


def test_without_a_path_nothing_is_kept() -> None:
    journal = Journal(None, {}, "search")
    journal.add("a", 1)
    assert journal.values == {"a": 1}
    journal.remove()


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    begun(path, about={"a": 1}).add("k", [1])
    path.write_bytes(path.read_bytes() + b"torn")
    before = path.read_bytes()
    stored = read_journal(path, "search")
    assert (stored.about, stored.values, stored.size) == ({"a": 1}, {"k": [1]}, len(before) - 4)
    assert stored.identity == json.loads(json_text(IDENTITY))
    assert path.read_bytes() == before


def test_difference() -> None:
    assert difference({"a": 1, "b": [1], "c": 0}, {"a": 1, "b": [2], "d": None}) == ["b", "c", "d"]
