"""Records of one evaluation, from one file or from the shards of many machines, put together again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qvggt.errors import QvggtError
from qvggt.eval.memory import Memory
from qvggt.eval.records import RecordFile, Row, read_records
from qvggt.eval.result import CandidateResult
from qvggt.eval.worst import loss
from qvggt.journal import difference
from qvggt.mapping import from_mapping


def shard_of(count: int, shard: tuple[int, int]) -> range:
    """Positions of shard i of n (1 <= i <= n) among `count` sequences: every n-th, so that categories spread."""
    return range(shard[0] - 1, count, shard[1])


def merge_records(paths: Sequence[str | Path]) -> tuple[dict[str, Any], list[CandidateResult]]:
    """(header, results) of files that together hold every sequence of one configuration, in the order of the data set.

    QvggtError: another configuration, two different records of one sequence, or sequences that none holds.
    """
    if not paths:
        raise QvggtError("merge: expected at least one record file, got none")
    files = [read_records(path) for path in paths]
    first = files[0]
    rows: dict[str, Row] = {}
    owner: dict[str, RecordFile] = {}
    for file in files:
        if changed := difference(first.header["identity"], file.header["identity"]):
            raise QvggtError(
                f"{file.path}: holds records of another configuration than {first.path} "
                f"(differs in {', '.join(changed)}); merge shards of one run"
            )
        for key, row in file.rows.items():
            if key in rows:
                raise QvggtError(f"{file.path}: {key} is in {owner[key].path} too; give every shard once")
            rows[key], owner[key] = row, file
    keys = [entry["key"] for entry in first.header["sequences"]]
    if missing := [key for key in keys if key not in rows]:
        raise QvggtError(
            f"merge: {len(missing)} of {len(keys)} sequences are in no file, first {missing[0]}; "
            "finish the shards (the same command goes on) or give the missing ones"
        )
    worst = [
        {**entry, "file": str(file.path.parent / entry["file"])}
        for file in files
        for entry in file.header.get("worst", [])
    ]
    header = {
        **first.header,
        "config": {**first.header["config"], **_seen([file.header["config"] for file in files])},
        "worst": sorted(worst, key=lambda entry: loss(entry["values"]), reverse=True),
        "memory": next((file.header["memory"] for file in files if file.header.get("memory")), None),
    }
    return header, results_of(header["candidates"], [rows[key] for key in keys], header["memory"])


def _seen(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all shards together have seen of their images, see `seen.seen_of`."""
    counts: Counter[str] = Counter()
    for config in configs:
        counts.update(config.get("seen", {}))
    return {"seen": dict(counts.most_common())} if counts else {}


def results_of(
    facts: Sequence[dict[str, Any]], rows: Sequence[Row], memory: Sequence[dict[str, Any] | None] | None = None
) -> list[CandidateResult]:
    """One result per candidate from its facts, the rows in order, and its peak memory where that was measured."""
    results = []
    for index, entry in enumerate(facts):
        peak = from_mapping(Memory, memory[index], "memory") if memory and memory[index] else None
        results.append(CandidateResult(entry["label"], dict(entry), tuple(row[index] for row in rows), memory=peak))
    return results
