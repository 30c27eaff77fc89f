"""Image batches of one size, read one sequence at a time: what calibration and parity run on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic

from torch import Tensor

from qvggt.data.images import load_images_exact
from qvggt.data.sequence import FramesType


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
            yield load_images_exact(sequence.image_paths, self.height, self.width, read=sequence.image_reader)[0]

    def listing(self) -> dict[str, Any]:
        """Sequences with their frames, and a hash of that list (for the checkpoint's provenance)."""
        frames = {s.key: list(s.frame_indices) for s in self.sequences}
        digest = hashlib.sha256(json.dumps(frames, sort_keys=True).encode()).hexdigest()
        return {"frames": frames, "sha256": digest, "size": [self.height, self.width]}
