"""Image batches for calibration and parity: from a Co3D-format folder, or generated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from qvggt.data.co3d import Co3DConfig, Sequence, read_sequences
from qvggt.data.images import load_images_exact
from qvggt.errors import QvggtError

ANNOTATIONS = "annotations"  # folder of annotation files inside a generated root


class Frames(Protocol):
    """Chosen frames of a sequence: what loading and listing them takes. key: `category/name`."""

    @property
    def key(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def image_paths(self) -> tuple[Path, ...]: ...
    @property
    def frame_indices(self) -> tuple[int, ...]: ...


FramesType = TypeVar("FramesType", bound=Frames, covariant=True)


@dataclass(frozen=True)
class ImageSet(Generic[FramesType]):
    """Sequences of one size; iterates over batches [S, 3, H, W] in [0, 1], loading one at a time."""

    sequences: tuple[FramesType, ...]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[Tensor]:
        for sequence in self.sequences:
            yield load_images_exact(sequence.image_paths, self.height, self.width)[0]

    def listing(self) -> dict[str, object]:
        """Sequences with their frames, and a hash of that list (for the checkpoint's provenance)."""
        frames = {s.key: list(s.frame_indices) for s in self.sequences}
        digest = hashlib.sha256(json.dumps(frames, sort_keys=True).encode()).hexdigest()
        return {"frames": frames, "sha256": digest, "size": [self.height, self.width]}


def co3d_images(
    root: Path,
    height: int,
    width: int,
    *,
    annotations: Path | None = None,
    split: str = "train",
    frames: int = 4,
    min_frames: int = 1,
    sequences: int | None = None,
    seed: int = 0,
) -> ImageSet[Sequence]:
    """The first `sequences` usable sequences of a Co3D-format root, `frames` seeded frames each."""
    config = Co3DConfig(
        root=str(root),
        annotations=str(annotations or root / ANNOTATIONS),
        split=split,
        frames=frames,
        min_frames=max(frames, min_frames),
        seed=seed,
        max_sequences=sequences,
    )
    found = tuple(read_sequences(config))
    if not found:
        raise QvggtError(f"{root}: no usable {split} sequence with {frames} frames")
    return ImageSet(found if sequences is None else found[:sequences], height, width)
