"""Measured pool sequences on disk: what lets an interrupted selection go on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qvggt.calib.frame_features import SequenceFeatures
from qvggt.calib.selection import Record
from qvggt.errors import QvggtError
from qvggt.journal import Journal


class PoolJournal:
    """The records measured so far, by key. `job` is everything the features depend on (`Journal`)."""

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self.journal = Journal(path, job, "selection")
        try:
            self.records = {key: _record(key, **value) for key, value in self.journal.values.items()}
        except (TypeError, ValueError) as error:
            raise QvggtError(f"{path}: is damaged ({type(error).__name__}); delete it to start anew") from error

    def add(self, record: Record) -> None:
        """Keep a record; it is on disk when this returns."""
        features = record.features
        arrays = {"statistics": features.statistics.tolist(), "similarity": features.similarity.tolist()}
        self.records[record.key] = record
        self.journal.add(record.key, {"category": record.category, "layers": features.layers, **arrays})


def _record(key: str, category: str, layers: list[str], statistics: Any, similarity: Any) -> Record:
    arrays = (np.array(values, np.float64) for values in (statistics, similarity))
    return Record(key, category, SequenceFeatures(tuple(layers), *arrays))
