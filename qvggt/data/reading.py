"""What commands and the Python API read: a training pool, images of one size, the sequences of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qvggt.data.frame_list import load_frame_list, save_frame_list
from qvggt.data.image_set import ImageSet
from qvggt.data.registry import DataSet, Question, recognise
from qvggt.data.sequence import Frames, Sequence, SequenceSet
from qvggt.errors import QvggtError


def read_pool(question: Question) -> SequenceSet[Frames]:
    """Every usable sequence, sorted by category and name, of whatever data set lies at the root; else of photographs,
    which have no split: all of them are taken. QvggtError: no such folder, nothing usable, a category that the class
    mode asks for missing."""
    if not question.root.exists():
        raise QvggtError(
            f"{question.root}: is not a folder; give one in Co3D format, one of photographs, or one with a folder of "
            "images per sequence, or QuantVGGT's calib_data.pt"
        )
    dataset = recognise(question, "photos" if question.annotations is None else "co3d")
    return dataset.answer(_of_any_length(question))


def read_images(
    question: Question, height: int, width: int, say: Callable[[str], None] | None = None
) -> ImageSet[Sequence]:
    """The first `max_sequences` posed sequences in all, at one size; Co3D unless another data set lies at the root.
    say: hears the notes and how many sequences were left out."""
    found = recognise(question, "co3d").answer(_of_any_length(question))
    if say is not None:
        for reason, count in found.skip_counts().items():
            say(f"note: {question.root}: {count} sequences skipped ({reason})")
        for note in found.notes:
            say(f"note: {note}")
    return ImageSet(found.sequences[: question.max_sequences], height, width)


def _of_any_length(question: Question) -> Question:
    """Sequences that have the frames asked for, without the data set's rule for evaluations."""
    return replace(question, min_frames=question.min_frames or question.frames)


@dataclass(frozen=True)
class Data:
    """The sequences, and the hash of the stored frame list when there is one."""

    sequences: SequenceSet[Any]
    stored_sha256: str | None


def open_data(dataset: DataSet, question: Question, frame_list: Path | None = None) -> Data:
    """The sequences of an evaluation, with the stored frame list if that file exists; else it is written there."""
    stored = load_frame_list(frame_list) if frame_list is not None and frame_list.exists() else None
    sequences = dataset.answer(question, stored)
    if frame_list is not None and stored is None:
        stored = dataset.frame_list(question, sequences)
        save_frame_list(frame_list, stored)
    return Data(sequences, None if stored is None else stored.sha256)
