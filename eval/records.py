"""The record file: one JSON line per finished sequence under a header that says what they are records of.

Floats are written so that they read back as the same float64. A run is resumed, and shards are merged, only under the
same configuration: the hash in the header. A last line that a kill cut off is dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qvggt.errors import QvggtError
from qvggt.eval.depth import DepthErrors
from qvggt.eval.noise import Noise
from qvggt.eval.points import PointErrors
from qvggt.eval.pose import PoseErrors
from qvggt.eval.result import SequenceRecord
from qvggt.files import reason
from qvggt.mapping import from_mapping

FORMAT = 1
KIND = "qvggt_eval"
EXTRAS = ("memory", "worst")

Row = tuple[SequenceRecord, ...]
"""One sequence: a record of every candidate, in order."""


def jsonable(value: Any) -> Any:
    """Keys to text, tuples to lists, non-finite numbers to text: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hash of a JSON-ready configuration, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(jsonable(config), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Entry:
    """What a line says of one candidate. parity: index of an earlier candidate -> output name -> noise."""

    rotation_deg: tuple[float, ...]
    translation_deg: tuple[float, ...]
    depth: DepthErrors | None
    points: Mapping[str, PointErrors]
    parity: Mapping[int, Mapping[str, Noise]]
    seconds: float
    timings: tuple[float, ...]


@dataclass(frozen=True)
class RecordFile:
    """A record file that was read. header: its first line. rows: sequence -> one record per candidate."""

    path: Path
    header: dict[str, Any]
    rows: dict[str, Row]


class RecordWriter(AbstractContextManager["RecordWriter"]):
    """Appends rows to a record file; every row is on the disk before the next sequence starts."""

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        """Start a file, or go on with one of the same configuration (`done` then holds its rows).

        header: JSON-ready, with "config_sha256" and "shard". QvggtError for a file of another configuration or shard,
        one that is no record file, or a place that refuses.
        """
        self.path = Path(path)
        self.done: dict[str, Row] = {}
        self.header: dict[str, Any] = dict(header)
        text = json.dumps(jsonable({KIND: FORMAT, **header}), allow_nan=False) + "\n"
        try:
            if self.path.exists() and (kept := _whole_lines(self.path)):
                old = read_records(self.path)
                _check_same(old, header)
                self.done, self.header = old.rows, old.header
                os.truncate(self.path, kept)
                self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115
                self._write(text)
        except OSError as error:
            raise QvggtError(f"{path}: cannot be written ({reason(error)}); choose another place") from error

    def append(self, row: Row) -> None:
        """Add one finished sequence. QvggtError when the disk refuses; the file then ends before this row."""
        self._append({"sequence": row[0].key, "candidates": [record_to_json(record) for record in row]})

    def append_extra(self, name: str, value: Any) -> None:
        """Add what is known only at the end, one of EXTRAS; it reads back as part of the header."""
        assert name in EXTRAS
        self._append({"extra": {name: value}})

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            self._write(json.dumps(jsonable(line), allow_nan=False) + "\n")
        except OSError as error:
            raise QvggtError(
                f"{self.path}: cannot be written ({reason(error)}); free some space and run the same command again"
            ) from error

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __exit__(self, *error: object) -> None:
        self.close()


def read_records(path: str | Path) -> RecordFile:
    """Read a record file; QvggtError names the file and line at fault."""
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); expected a record file") from error
    lines = lines[:-1]  # after the last line break: nothing, or what a kill left of a line
    header = _parsed(path, 1, lines[0]) if lines else {}
    if header.get(KIND) != FORMAT:
        raise QvggtError(
            f"{path}: expected records of qvggt-eval (format {FORMAT}), got {str(header.get(KIND))[:20]!r}; "
            "give another file"
        )
    if not _is_header(header):
        raise QvggtError(f"{path}: line 1: expected the header of a record file; delete the file and run again")
    categories = {entry["key"]: entry["category"] for entry in header["sequences"]}
    rows: dict[str, Row] = {}
    for number, text in enumerate(lines[1:], 2):
        data = _parsed(path, number, text)
        if isinstance(data.get("extra"), dict):
            header.update({name: data["extra"][name] for name in EXTRAS if name in data["extra"]})
            continue
        try:
            key = data["sequence"]
            row = tuple(record_from_json(entry, key, categories[key]) for entry in data["candidates"])
            if len(row) != len(header["candidates"]):
                raise ValueError(f"{len(row)} candidates")
        except (KeyError, TypeError, ValueError, QvggtError) as error:
            problem = error if isinstance(error, QvggtError) else f"{type(error).__name__} {error}"
            raise QvggtError(
                f"{path}: line {number}: expected the record of a sequence, got {problem}; "
                "delete the file and run again"
            ) from error
        rows[key] = row
    return RecordFile(path, header, rows)


def record_to_json(record: SequenceRecord) -> dict[str, Any]:
    return asdict(
        _Entry(
            rotation_deg=tuple(record.pose.rotation_deg.tolist()),
            translation_deg=tuple(record.pose.translation_deg.tolist()),
            depth=record.depth,
            points=record.points,
            parity={index: part for index, part in ((0, record.noise), *record.parity.items()) if part},
            seconds=record.seconds,
            timings=record.timings,
        )
    )


def record_from_json(data: Mapping[str, Any], key: str, category: str) -> SequenceRecord:
    """Inverse of `record_to_json`. QvggtError or ValueError for something else."""
    entry = from_mapping(_Entry, data, f"candidate of {key}", ignore_unknown=True)
    parity = dict(entry.parity)
    rotation, translation = np.array(entry.rotation_deg, np.float64), np.array(entry.translation_deg, np.float64)
    if rotation.shape != translation.shape or rotation.size == 0:
        raise ValueError("pose errors of different lengths")
    return SequenceRecord(
        key=key,
        category=category,
        pose=PoseErrors(rotation, translation),
        depth=entry.depth,
        noise=dict(parity.pop(0, {})),
        seconds=entry.seconds,
        points=entry.points,
        timings=entry.timings,
        parity=parity,
    )


def _parsed(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise QvggtError(f"{path}: line {number}: expected JSON, got {str(error)[:80]}; delete the file") from error
    if not isinstance(data, dict):
        raise QvggtError(f"{path}: line {number}: expected a JSON object, got {type(data).__name__}; delete the file")
    return data


def _is_header(header: Mapping[str, Any]) -> bool:
    kinds = {"config": dict, "config_sha256": str, "candidates": list, "sequences": list, "frame_list": dict}
    shard = header.get("shard")
    return (
        all(isinstance(header.get(name), kind) for name, kind in kinds.items())
        and isinstance(shard, list)
        and len(shard) == 2
        and all(isinstance(i, int) for i in shard)
        and all(isinstance(c, dict) and isinstance(c.get("label"), str) for c in header["candidates"])
        and all(isinstance(s, dict) and {"key", "category"} <= set(s) for s in header["sequences"])
    )


def _whole_lines(path: Path) -> int:
    """Bytes up to the last line break, 0 for a file to start anew: empty, or a header that a kill cut off.

    Nothing is changed yet: the file may be another one, given by mistake.
    """
    content = path.read_bytes()
    kept = content.rfind(b"\n") + 1
    start = f'{{"{KIND}"'.encode()
    if kept == 0 and not start.startswith(content[: len(start)]):
        raise QvggtError(f"{path}: expected records of qvggt-eval, got another file; give another name")
    return kept


def _check_same(file: RecordFile, header: Mapping[str, Any]) -> None:
    if file.header["config_sha256"] != header["config_sha256"]:
        raise QvggtError(
            f"{file.path}: holds records of another configuration (differs in {difference(file.header, header)}); "
            "give another file or delete it"
        )
    if file.header["shard"] != list(header["shard"]):
        raise QvggtError(
            f"{file.path}: holds shard {shown_shard(file.header['shard'])}, asked for "
            f"{shown_shard(header['shard'])}; give another file"
        )


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Names of the keys of two headers' `identity` that differ."""
    a, b = one.get("identity", {}), jsonable(other.get("identity", {}))
    return ", ".join(key for key in sorted({*a, *b}) if a.get(key) != b.get(key)) or "its hash"


def shown_shard(shard: Sequence[int]) -> str:
    return f"{shard[0]}/{shard[1]}"
