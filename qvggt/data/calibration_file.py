"""QuantVGGT's calibration file (calib_data.pt): images that were drawn, resized and stored as tensors beforehand.

A list of {"images": float [S, 3, H, W] in [0, 1], "category": text, "seq_name": text}, written from a GPU (spec
quantvggt.md 3). The tensors stay mapped: an image is read when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvggt.data.class_modes import categories as categories_of
from qvggt.data.registry import Question
from qvggt.data.sequence import Frames, SequenceSet
from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SUFFIXES = (".pt", ".pth")
EXPECTED = "QuantVGGT's calib_data.pt, a list of images, category and seq_name for each sequence"
SPLIT = "QuantVGGT draws its calibration files from Co3D's test split: an evaluation there sees the same sequences"


def is_calibration_file(question: Question) -> bool:
    """Whether the root is a file, and no folder."""
    return question.root.is_file()


def read_calibration_file(question: Question, _: object = None) -> SequenceSet[Frames]:
    """Its sequences, sorted by category and name, each cut to the first `frames`, whose order is random already.

    There is no split. QvggtError for a file that is damaged, holds code or is something else, and for a category of the
    class mode that it lacks.
    """
    from qvggt.tensor_file import load_objects

    root = question.root
    if root.suffix.lower() not in SUFFIXES:
        raise QvggtError(f"{root}: is a file, expected a folder of images, or {EXPECTED}")
    entries = load_objects(root, EXPECTED)
    if not isinstance(entries, list) or not entries:
        got = "an empty list" if entries == [] else f"a {type(entries).__name__}"
        raise QvggtError(f"{root}: holds {got}, expected {EXPECTED}")
    stored = _Stored(tuple(_images(entry, f"{root}: entry {index}") for index, entry in enumerate(entries)))
    taken = {entry["category"] for entry in entries}
    if question.class_mode is not None:
        taken &= {*categories_of(question.class_mode, taken)}
    count = dict.fromkeys(taken, 0)
    sequences, short = list[Frames](), 0
    for index in sorted(range(len(entries)), key=lambda i: (entries[i]["category"], entries[i]["seq_name"], i)):
        category = entries[index]["category"]
        if category not in taken or count[category] == question.max_sequences:
            continue
        count[category] += 1
        held = len(stored.images[index])
        frames = range(min(question.frames or held, held))
        short += held < (question.frames or held)
        paths = tuple(root / str(index) / str(frame) for frame in frames)
        name = entries[index]["seq_name"]
        name = f"{name}-{index}" if f"{category}/{name}" in {s.key for s in sequences} else name
        sequences.append(Frames(category, name, paths, tuple(frames), image_reader=stored))
    notes = (f"{root}: {short} sequences hold fewer than {question.frames} frames: all of theirs are taken",)
    return SequenceSet(tuple(sequences), (), question.facts(), (SPLIT, *notes[: short > 0]))


@dataclass(frozen=True, eq=False)
class _Stored:
    """Reads "FILE/SEQUENCE/FRAME"."""

    images: tuple[Tensor, ...]

    def __call__(self, path: Any) -> Image:
        from PIL import Image

        pixels = self.images[int(Path(path).parent.name)][int(Path(path).name)].float()
        low, high = (bound.item() for bound in pixels.aminmax())
        if not (low >= 0 and high <= 1):  # NaN, too
            raise QvggtError(f"{path}: expected pixels in [0, 1], got {low:.3g} to {high:.3g}; make the file again")
        return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


def _images(entry: Any, where: str) -> Tensor:
    """float [S, 3, H, W]; QvggtError, beginning with `where`, for an entry that is none."""
    import torch

    if not isinstance(entry, Mapping) or not all(isinstance(entry.get(k), str) for k in ("category", "seq_name")):
        got = f"keys {sorted(map(str, entry))[:4]}" if isinstance(entry, Mapping) else type(entry).__name__
        raise QvggtError(f"{where}: expected images, category and seq_name, got {got}; it is no {EXPECTED}")
    images = entry.get("images")
    if not isinstance(images, torch.Tensor) or not images.is_floating_point() or images.layout != torch.strided:
        raise QvggtError(f"{where}: expected images as a float tensor, got {getattr(images, 'dtype', type(images))}")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise QvggtError(f"{where}: expected images [frames, 3, height, width], got {list(images.shape)}")
    return images
