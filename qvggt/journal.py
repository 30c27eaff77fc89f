"""Finished units of a long job on disk, one JSON line each: what lets it go on where it was interrupted."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvggt.errors import QvggtError
from qvggt.files import FULL, reason, sync
from qvggt.json_file import json_line, jsonable

FORMAT = 2
KEY = "qvggt_journal"  # of the header: the format
_START = f'{{"{KEY}"'.encode()
_OLDER = ("qvggt_eval", "job")  # in headers of format 1
_SHOWN = 20  # characters of a value that an error repeats


@dataclass(frozen=True)
class Stored:
    """A journal file that was read. size: bytes of its whole lines; what lies behind them a kill cut off."""

    identity: dict[str, Any]
    about: dict[str, Any]
    values: dict[str, Any]
    size: int


class Journal:
    """A header, then (key, value) pairs in the order they were found; a later value of a key takes the earlier's place.

    `identity`: all that the values depend on. `about`: facts beside it that are not compared; of the file, when one is
    there. `values`: those so far. All are JSON-ready (`jsonable`: numbers that are not finite are words), floats read
    back exactly. Without a path nothing is kept.
    """

    def __init__(
        self,
        path: Path | None,
        identity: Mapping[str, Any],
        what: str,
        place: Path | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a file, or go on with one of the same identity.

        `what` names the journal in its header and in errors, `place` (by default the file) what is to be deleted to
        start anew. QvggtError for a file of another identity, with the names of the keys that differ, for one that is
        no journal of this kind, and for a place that refuses; what is there is then unchanged.
        """
        self.path = path
        self.values: dict[str, Any] = {}
        self.identity: dict[str, Any] = jsonable(identity)
        self.about: dict[str, Any] = jsonable(about or {})
        if path is None:
            return
        try:
            if _begun(path):
                stored = read_journal(path, what, place)
                if stored.identity != self.identity:
                    raise QvggtError(f"{place or path}: {_other(what, stored.identity, self.identity)}")
                self.values, self.about = stored.values, stored.about
                if stored.size < path.stat().st_size:
                    os.truncate(path, stored.size)
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            header = {KEY: FORMAT, "kind": what, "identity": self.identity, "about": self.about}
            path.write_bytes(json_line(header).encode())
            sync(path)
            sync(path.parent)
        except OSError as error:
            raise _refused(path, error) from error

    def add(self, key: str, value: Any) -> None:
        """Keep a value; it is on the disk when this returns. QvggtError when the disk refuses: the file then ends
        before this value, and the same command goes on from there."""
        value = jsonable(value)
        if self.path is not None:
            try:
                _append(self.path, json_line([key, value]).encode())
            except OSError as error:
                raise _refused(self.path, error) from error
        self.values[key] = value

    def remove(self) -> None:
        """Delete the file once its result is saved elsewhere."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def read_journal(path: Path, what: str, place: Path | None = None) -> Stored:
    """Read a journal and change nothing; QvggtError, which names the line at fault, for anything else."""
    anew = f"delete {'it' if place is None else place} to start anew"
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); expected the {what} of qvggt") from error
    lines = lines[:-1]  # after the last line break: nothing, or what a kill left of a line
    header = _parsed(path, 1, lines[0], dict, anew) if lines else {}
    if KEY not in header and any(key in header for key in _OLDER):
        raise QvggtError(f"{path}: was written by an older qvggt; {anew}")
    if header.get(KEY) != FORMAT or header.get("kind") != what:
        raise QvggtError(f"{path}: expected the {what} of qvggt (format {FORMAT}), got another file; give another name")
    identity, about = header.get("identity"), header.get("about")
    if not isinstance(identity, dict) or not isinstance(about, dict):
        raise QvggtError(f"{path}: line 1: expected the header of a journal; {anew}")
    values: dict[str, Any] = {}
    for number, text in enumerate(lines[1:], 2):
        pair = _parsed(path, number, text, list, anew)
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise QvggtError(f"{path}: line {number}: expected a key and a value; {anew}")
        values[pair[0]] = pair[1]
    return Stored(identity, about, values, sum(len(text) + 1 for text in lines))


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the keys in which two identities differ."""
    keys = sorted({*one, *other})
    return [_word(key) for key in keys if key not in one or key not in other or one[key] != other[key]]


def _begun(path: Path) -> bool:
    """Whether there is a file to go on with; not when it is empty, or a header that a kill cut off."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        content = file.readline()
    if content.endswith(b"\n"):
        return True
    if not _START.startswith(content[: len(_START)]):
        raise QvggtError(f"{path}: is no journal of qvggt but another file; give another name, or delete it")
    return False


def _append(path: Path, line: bytes) -> None:
    with open(path, "r+b") as file:  # not "a": a file that was deleted meanwhile must not begin again without a header
        size = file.seek(0, os.SEEK_END)
        try:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


def _parsed(path: Path, number: int, text: bytes, kind: type, anew: str) -> Any:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise QvggtError(f"{path}: line {number}: expected JSON, got {str(error)[:80]}; {anew}") from error
    if not isinstance(data, kind):
        name = "a JSON object" if kind is dict else "a key and a value"
        raise QvggtError(f"{path}: line {number}: expected {name}, got {type(data).__name__}; {anew}")
    return data


def _other(what: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    names = difference(old, new)
    anew = "give another file, or delete it to start anew"
    values = [one.get(name) for one in (old, new) for name in names[:1]]
    if len(names) == 1 and all(isinstance(value, int | str) for value in values):
        before, now = map(_word, values)
        if names == ["threads"]:
            return (
                f"was started with {before} threads, now {now}, and results may depend on that; "
                f"give --threads {before} to go on, or delete it to start anew"
            )
        if max(len(before), len(now)) <= _SHOWN:
            return f"holds the {what} of another configuration ({names[0]} was {before}, is {now}); {anew}"
    return f"holds the {what} of another configuration (differs in {', '.join(names)}); {anew}"


def _word(value: Any) -> str:
    """Of a file that may be damaged, in an error of one line."""
    return json.dumps(value).strip('"')


def _refused(path: Path, error: OSError) -> QvggtError:
    advice = "free some space and run the same command again" if error.errno in FULL else "choose another place"
    return QvggtError(f"{path}: cannot be written ({reason(error)}); {advice}")
