"""What qvggt-eval was told of its data, as a data set and a question for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from qvggt.data.registry import DataSet, Question, dataset_names, find_dataset
from qvggt.errors import QvggtError


@dataclass(frozen=True)
class DataRequest:
    """The data set, the question it is asked, the file of the stored frames if any, and how many scenes to generate
    (None: none, the data lies at the question's root)."""

    dataset: DataSet
    question: Question
    frame_list: Path | None = None
    scenes: int | None = None


def data_request(
    name: str, root: Path | None, scenes: int | None, fast: bool, question: Question, frame_list: Path | None
) -> DataRequest:
    """The words of a command line, the question's root aside; QvggtError for options that do not go together."""
    dataset = find_dataset(name)
    generated = root is None and dataset.generate is not None
    if root is None and not generated:
        raise QvggtError(f"Missing option '--root': the folder of the {name} data ({dataset.holds})")
    if scenes is not None and not generated:
        able = " and ".join(dataset_names("scenes"))
        raise QvggtError(f"--scenes: only for --dataset {able} without --root; limit others by --max-sequences")
    for option, value in (("stride", question.stride), ("depth", None if question.depth == "auto" else question.depth)):
        if value is not None and option not in dataset.options:
            raise QvggtError(f"--{option} {value}: only for --dataset {' and '.join(dataset_names(option))}")
    fewer = dataset.fast if fast else None
    question = replace(question, root=root or Path(), max_sequences=question.max_sequences or fewer)
    return DataRequest(dataset, question, frame_list, (scenes or fewer or dataset.scenes) if generated else None)
