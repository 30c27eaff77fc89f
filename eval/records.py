"""The record file: a journal with a line per finished sequence, its header says what they are records of.

A run is resumed, and shards are merged, only under the same configuration: the journal's identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
from qvggt.journal import Journal, Stored, read_journal
from qvggt.json_file import jsonable
from qvggt.mapping import from_mapping

WHAT = "records"
EXTRAS = {"#memory": "memory", "#worst": "worst"}
"""Keys of what is known only at the end -> of the header that it becomes part of."""

Row = tuple[SequenceRecord, ...]
"""One sequence: a record of every candidate, in order."""


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
    """A record file that was read. header: facts of the run. rows: sequence -> one record per candidate."""

    path: Path
    header: dict[str, Any]
    rows: dict[str, Row]


class RecordWriter:
    """Appends rows to a record file; every row is on the disk before the next sequence starts."""

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        """Start a file, or go on with one of the same configuration (`done` then holds its rows).

        header: JSON-ready, with "identity" (what must agree) and "shard". QvggtError for a file of another
        configuration or shard, one that is no record file, or a place that refuses.
        """
        self.path = Path(path)
        about = dict(header)
        shard = "/".join(str(number) for number in about.pop("shard"))
        self._journal = Journal(self.path, {**about.pop("identity"), "shard": shard}, WHAT, about=about)
        found = _record_file(self.path, self._journal)
        self.done, self.header = found.rows, found.header

    def append(self, row: Row) -> None:
        """Add one finished sequence. QvggtError when the disk refuses; the file then ends before this row."""
        self._journal.add(row[0].key, [record_to_json(record) for record in row])

    def append_extra(self, name: str, value: Any) -> None:
        """Add what is known only at the end, one of EXTRAS; it reads back as part of the header."""
        self._journal.add({extra: key for key, extra in EXTRAS.items()}[name], value)


def read_records(path: str | Path) -> RecordFile:
    """Read a record file; QvggtError names the file and the line or sequence at fault."""
    return _record_file(Path(path), read_journal(Path(path), WHAT))


def _record_file(path: Path, stored: Stored | Journal) -> RecordFile:
    identity = dict(stored.identity)
    header = {**stored.about, "shard": identity.pop("shard", None), "identity": identity}
    if not _is_header(header):
        raise QvggtError(f"{path}: line 1: expected the header of a record file; delete the file and run again")
    categories = {entry["key"]: entry["category"] for entry in header["sequences"]}
    rows: dict[str, Row] = {}
    for key, value in stored.values.items():
        if key in EXTRAS:
            header[EXTRAS[key]] = value
            continue
        try:
            row = tuple(record_from_json(entry, key, categories[key]) for entry in value)
            if len(row) != len(header["candidates"]):
                raise ValueError(f"{len(row)} candidates")
        except (KeyError, TypeError, ValueError, QvggtError) as error:
            problem = error if isinstance(error, QvggtError) else f"{type(error).__name__} {error}"
            raise QvggtError(
                f"{path}: {key!r}: expected the record of a sequence, got {problem}; delete the file and run again"
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


def _is_header(header: Mapping[str, Any]) -> bool:
    kinds = {"config": dict, "config_sha256": str, "candidates": list, "sequences": list, "frame_list": dict}
    return (
        all(isinstance(header.get(name), kind) for name, kind in kinds.items())
        and isinstance(header["shard"], str)
        and all(isinstance(c, dict) and isinstance(c.get("label"), str) for c in header["candidates"])
        and all(isinstance(s, dict) for s in header["sequences"])
        and all(isinstance(s.get(name), str) for s in header["sequences"] for name in ("key", "category"))
    )
