"""Training images of a calibration: the first of a pool, or a selection from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvggt.data.image_set import ImageSet
from qvggt.data.sequence import Frames, SequenceSet, first_sequences
from qvggt.errors import QvggtError
from qvggt.progress import Console

if TYPE_CHECKING:
    from qvggt.calib.selection import Record, Selection, SelectionConfig
    from qvggt.models.network import Network

SELECTION = "selection.json"  # in the checkpoint folder
SHOWN = 5  # rejected sequences in the text


@dataclass(frozen=True)
class Training:
    """Images to calibrate on, every sequence of the pool that was not rejected, and the selection if there was one."""

    images: ImageSet[Frames]
    pool: tuple[Frames, ...]
    selection: Selection | None = None

    def record(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What goes into quant.json, and files beside it (name -> text)."""
        calibration: dict[str, Any] = self.images.listing()
        if self.selection is None:
            return calibration, {}
        about = {"file": SELECTION, "sha256": self.selection.sha256, "pool": len(self.selection.sequences)}
        return {**calibration, "selection": about}, {SELECTION: self.selection.to_json()}


def training_images(
    found: SequenceSet[Frames],
    size: tuple[int, int],
    sequences: int,
    model: Network,
    chooser: SelectionConfig | None,
    store: Path,
    job: Mapping[str, Any],
    console: Console,
) -> Training:
    """The first `sequences` of the pool found, the categories taking turns, or with a `chooser` those it selects; size:
    (height, width). See `select_images`."""
    pool = found.sequences
    console.say(found.summary())
    for note in found.notes:
        console.say(f"note: {note}")
    if chooser is None:
        if len(pool) < sequences:
            console.say(f"note: {sequences} sequences asked for, {len(pool)} can be used: all are taken")
        return Training(ImageSet(first_sequences(pool, sequences), *size), pool)
    images, selection = select_images(model, ImageSet(pool, *size), chooser, store, job, console)
    print_selection(selection, sequences, console)
    rejected = set(selection.rejected)
    return Training(images, tuple(s for s in pool if s.key not in rejected), selection)


def select_images(
    model: Network,
    pool: ImageSet[Frames],
    config: SelectionConfig,
    store: Path,
    job: Mapping[str, Any],
    console: Console,
) -> tuple[ImageSet[Frames], Selection]:
    """The chosen sequences of a pool and the list of reasons.

    One sequence is in memory at a time. Features go to the file `store` as they are measured and are taken from there;
    `job`: what they depend on besides the pool's images. QvggtError as `measure_pool`, and for a store of another job.
    """
    from qvggt.calib.pool_journal import PoolJournal
    from qvggt.calib.selection import measure_pool, select_records

    for sequence in pool.sequences:
        if len(sequence.frame_indices) < 2:
            raise QvggtError("--select needs 2 frames or more of a sequence to compare; raise --frames")
    listing = hashlib.sha256(json.dumps(pool.listing(), sort_keys=True).encode()).hexdigest()
    kept = PoolJournal(store, {**job, "pool": listing, "deep_rounds": config.deep_rounds})
    if kept.records:
        console.say(f"going on after {len(kept.records)} measured sequences ({store})")
    left = replace(pool, sequences=tuple(s for s in pool.sequences if s.key not in kept.records))
    keyed = ((sequence.key, sequence.category, batch) for sequence, batch in zip(left.sequences, left, strict=True))
    measured: list[Record] = measure_pool(model, keyed, config.deep_rounds, total=len(left), keep=kept.add)
    selection = select_records([*kept.records.values()] if kept.records else measured, config)
    keys = set(selection.chosen)
    return replace(pool, sequences=tuple(s for s in pool.sequences if s.key in keys)), selection


def print_selection(selection: Selection, wanted: int, console: Console) -> None:
    """What was chosen, and why sequences were rejected (the first few; all of them with -v)."""
    console.say(f"selection: {selection.summary()}")
    if len(selection.chosen) < wanted:
        console.say(f"selection: the pool has no {wanted} usable sequences, all {len(selection.chosen)} are taken")
    rejected = [s for s in selection.sequences if s.status == "rejected"]
    for index, entry in enumerate(rejected):
        (console.say if index < SHOWN else console.detail)(f"  {entry.key}: {entry.reason}")
    if len(rejected) > SHOWN:
        console.say(f"  and {len(rejected) - SHOWN} more, see {SELECTION}")
