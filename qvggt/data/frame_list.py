"""Which frames of which sequences an evaluation uses: drawn once, stored, shared by every backend (DESIGN section 7).

The reference protocol draws from one global generator, so its frames depend on which data is on disk (spec
evaluation.md 4.2). Here every sequence has its own generator, seeded by (seed, category, sequence).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from qvggt.errors import QvggtError
from qvggt.files import atomic_write
from qvggt.mapping import Check, from_mapping

FORMAT = 1

Indices = Annotated[
    tuple[int, ...],
    Check("distinct frame indices >= 0", lambda values: 0 < len(values) == len(set(values)) and min(values) >= 0),
]


@dataclass(frozen=True)
class FrameList:
    """`frames`: "category/sequence" -> frame indices in evaluation order (the first is the reference camera);
    `config`: how they were drawn, for the record (`split` and `frames` are checked by the readers)."""

    frames: dict[str, Indices]
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of the frames alone: equal hashes mean that the models saw the same images."""
        canonical = json.dumps({key: list(self.frames[key]) for key in sorted(self.frames)}, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def draw_frames(seed: int, category: str, sequence: str, available: int, count: int) -> tuple[int, ...]:
    """`count` distinct indices below `available`, in random order; depends on its arguments only."""
    digest = hashlib.sha256(f"{seed}/{category}/{sequence}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    return tuple(int(i) for i in rng.choice(available, count, replace=False))


def save_frame_list(path: str | Path, frame_list: FrameList) -> None:
    """Write JSON atomically: format, sha256, config, frames (sorted by key)."""
    data = {
        "format": FORMAT,
        "sha256": frame_list.sha256,
        "config": frame_list.config,
        "frames": {key: list(frame_list.frames[key]) for key in sorted(frame_list.frames)},
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data) + "\n")


def load_frame_list(path: str | Path) -> FrameList:
    """Read and verify; QvggtError on a missing, malformed or edited file."""
    path = Path(path)
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise QvggtError(f"{path}: frame list is missing; draw one or give another path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise QvggtError(f"{path}: expected a JSON frame list, got {error}; draw it again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        stated = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise QvggtError(f"{path}: expected a frame list of format {FORMAT}, got {stated!r}; draw it again")
    values = {key: data.get(key) for key in ("frames", "config")}
    frame_list = from_mapping(FrameList, values, str(path), advice="draw it again")
    if data.get("sha256") != frame_list.sha256:
        raise QvggtError(
            f"{path}: expected sha256 {frame_list.sha256[:12]} of its frames, got {str(data.get('sha256'))[:12]}; "
            "the file was edited: draw it again"
        )
    return frame_list
