"""Calibration-set selection: pool -> noise filter -> diverse subset, with a reason for every sequence (DESIGN 3.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from qvggt.calib.diversity import Clusters, cluster, fill, pick_members
from qvggt.calib.frame_features import STATISTICS, SequenceFeatures, sequence_features
from qvggt.calib.noise_filter import Array, Finding, find_noise
from qvggt.calib.selection_list import (
    Pooled,
    Selection,
    SelectionConfig,
    Status,
    Violation,
    load_selection,
    save_selection,
)
from qvggt.errors import QvggtError
from qvggt.models.network import Network
from qvggt.progress import bar

__all__ = [
    "Record",
    "Selection",
    "SelectionConfig",
    "load_selection",
    "measure_pool",
    "save_selection",
    "select_records",
]


@dataclass(frozen=True)
class Record:
    """All that is kept of a sequence: a few dozen numbers."""

    key: str
    category: str
    features: SequenceFeatures


def measure_pool(
    model: Network,
    pool: Iterable[tuple[str, str, Tensor]],
    deep_rounds: int = 4,
    *,
    total: int | None = None,
    progress: bool = True,
    keep: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Features of every sequence of a pool of (key, category, images [S, 3, H, W] in [0, 1]).

    The pool is read once; the images of one sequence are gone before the next is asked for. It should come from the
    training split. Keys are unique, S is the same everywhere (spec/quantvggt.md section 3). `total`: sequences in the
    pool, for the progress bar. `keep` gets every record as soon as it is measured. QvggtError for a key twice.
    """
    records: dict[str, Record] = {}
    with bar(total=total, desc="measure pool", unit="sequence", shown=progress) as moved:
        for key, category, images in pool:
            if key in records:
                raise QvggtError(f"selection: sequence {key} is twice in the pool, expected unique keys")
            records[key] = Record(key, category, sequence_features(model, images, deep_rounds))
            del images  # the loop variable would live on while the next sequence loads
            if keep is not None:
                keep(records[key])
            moved.update()
    return list(records.values())


def select_records(records: Iterable[Record], config: SelectionConfig) -> Selection:
    """The selection from measured sequences, in any order.

    QvggtError: none at all, different numbers of frames, no finite features.
    """
    records = sorted(records, key=lambda record: record.key)  # k-means and ties depend on the order
    _check(records)
    findings = _noise(records, config)
    kept = [index for index, finding in enumerate(findings) if finding is None]
    if not kept:  # fences always accept what they were fitted to
        raise QvggtError(
            f"selection: none of the {len(records)} sequences of the pool gave finite features; "
            "look at the images and the weights"
        )
    points = cluster_points([records[index].features for index in kept])
    groups = cluster(points, config.clusters, config.seed)
    picked = pick_members(points, groups, config.per_cluster, config.seed, config.pick)
    reasons: dict[int, str] = dict.fromkeys(picked, config.pick)
    reasons |= dict.fromkeys(fill(groups, picked, config.size), "filled up")
    entries: list[Pooled] = [
        _rejected(record, finding) for record, finding in zip(records, findings, strict=True) if finding is not None
    ]
    entries += [_kept(records[index], row, groups, reasons.get(row)) for row, index in enumerate(kept)]
    return Selection(config, tuple(sorted(entries, key=lambda entry: entry.key)))


def cluster_points(features: Sequence[SequenceFeatures]) -> Array:
    """What k-means sees, [N, S - 1]: each sequence's similarities from the highest down.

    Frames 1..S-1 are a random draw in random order, so the f-th of one sequence has nothing to do with the f-th of
    another; sorted, the vector says how fast a sequence leaves its first frame.
    """
    return np.stack([np.sort(item.similarity)[::-1] for item in features])


def _check(records: Sequence[Record]) -> None:
    if not records:
        raise QvggtError("selection: the pool is empty, expected at least one sequence")
    frames = len(records[0].features.similarity) + 1
    for record in records:
        if len(record.features.similarity) + 1 != frames:
            raise QvggtError(
                f"selection: {record.key} has {len(record.features.similarity) + 1} frames and {records[0].key} "
                f"{frames}, expected the same number in every sequence of the pool"
            )


def _noise(records: Sequence[Record], config: SelectionConfig) -> list[Finding | None]:
    table = np.stack([record.features.statistics.ravel() for record in records])
    table[[not np.isfinite(record.features.similarity).all() for record in records]] = np.nan
    groups = [record.category for record in records]
    minimum = config.min_judges if config.false_alarm else len(records) + 1  # without fences, no number is noise still
    return find_noise(table, groups, minimum, config.false_alarm)


def _rejected(record: Record, finding: Finding) -> Pooled:
    layer = record.features.layers[finding.statistic // len(STATISTICS)]
    name = STATISTICS[finding.statistic % len(STATISTICS)]
    violation = Violation(layer, name, finding.value, finding.low, finding.high)
    value = "no finite number" if finding.value is None else f"{finding.value:.4g}"
    expected = "" if finding.low is None else f", expected {finding.low:.4g} to {finding.high:.4g}"
    text = f"noise: {name} of the input of {layer} is {value}{expected}"
    return Pooled(record.key, record.category, "rejected", text, _similarity(record), violation=violation)


def _kept(record: Record, row: int, groups: Clusters, why: str | None) -> Pooled:
    number = int(groups.labels[row])
    texts = {
        None: f"cluster {number} has its share",
        "spread": f"spread over cluster {number}",
        "nearest": f"near the centre of cluster {number}",
        "random": f"drawn from cluster {number}",
        "filled up": f"near the centre of cluster {number}, in place of members another cluster lacks",
    }
    status: Status = "left" if why is None else "chosen"
    distance = float(groups.distances[row])
    return Pooled(record.key, record.category, status, texts[why], _similarity(record), number, distance)


def _similarity(record: Record) -> tuple[float, ...]:
    values = record.features.similarity
    return tuple(values.tolist()) if np.isfinite(values).all() else ()
