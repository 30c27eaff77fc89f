"""A sequence of posed frames, whatever data set it is from, and sets of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from qvggt.data.cameras import NO_CAMERA, are_cameras
from qvggt.data.depth_png import read_depth
from qvggt.data.frame_list import FrameList
from qvggt.data.image_file import ImageReader, read_rgb, read_upright
from qvggt.data.scan import Scan
from qvggt.errors import QvggtError

DepthReader = Callable[[Path], NDArray[np.float32]]

LOCATION = ("root", "annotations")
"""Fields of a question that say where data lies: no part of a frame list or of a configuration's hash."""


@dataclass(frozen=True)
class Frames:
    """S chosen frames of a sequence, in order. frame_indices: which frames of the sequence they are. image_reader: file
    -> RGB image; photographs, which have no cameras, are turned upright."""

    category: str
    name: str
    image_paths: tuple[Path, ...]
    frame_indices: tuple[int, ...]
    image_reader: ImageReader = field(default=read_upright, kw_only=True)

    @property
    def key(self) -> str:
        """`category/name`, the key of frame lists and reports."""
        return f"{self.category}/{self.name}"


FramesType = TypeVar("FramesType", bound=Frames, covariant=True)


@dataclass(frozen=True)
class Sequence(Frames):
    """Posed frames, in evaluation order.

    extrinsics float64 [S,3,4] OpenCV camera-from-world; intrinsics float64 [S,3,3] in pixels of the stored images;
    depth_paths: None where there is no depth map; depth_reader: file -> depth float32 [H,W], 0 where unknown. scan: by
    which points are measured, instead of the depth maps.
    """

    extrinsics: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    depth_paths: tuple[Path | None, ...]
    depth_reader: DepthReader = read_depth
    image_reader: ImageReader = field(default=read_rgb, kw_only=True)
    scan: Scan | None = None

    def is_filmed(self) -> bool:
        """Whether every pose is a camera."""
        rotation, translation = self.extrinsics[..., :3], self.extrinsics[..., 3]
        return bool(are_cameras(rotation, translation, self.intrinsics[:, (0, 1), (0, 1)]).all())

    def first(self, count: int) -> Sequence:
        """The same sequence with only its first `count` frames."""
        per_frame = ("image_paths", "extrinsics", "intrinsics", "depth_paths", "frame_indices")
        return replace(self, **{name: getattr(self, name)[:count] for name in per_frame})


@dataclass(frozen=True)
class Skipped:
    category: str
    name: str
    reason: str


@dataclass(frozen=True)
class SequenceSet(Generic[FramesType]):
    """What was read, and what was left out and why. Iterates over the sequences.

    config: what was asked, JSON-ready. notes: sentences a reader of the results must see.
    """

    sequences: tuple[FramesType, ...]
    skipped: tuple[Skipped, ...]
    config: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[FramesType]:
        return iter(self.sequences)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> FramesType:
        return self.sequences[index]

    def skip_counts(self) -> dict[str, int]:
        """Reason -> number of sequences."""
        return dict(Counter(item.reason for item in self.skipped))

    def with_cameras(self) -> SequenceSet[FramesType]:
        """Without the sequences that have poses one of which is no camera (see `cameras`); QvggtError for none left."""
        gone = [s for s in self if isinstance(s, Sequence) and not s.is_filmed()]
        if gone and len(gone) == len(self):
            raise QvggtError(f"{gone[0].key} and {len(self) - 1} other sequences: have poses that are no cameras")
        keys = {s.key for s in gone}
        skipped = (Skipped(s.category, s.name, NO_CAMERA) for s in gone)
        return replace(self, sequences=tuple(s for s in self if s.key not in keys), skipped=(*self.skipped, *skipped))

    def summary(self) -> str:
        """One line."""
        count = len({sequence.category for sequence in self})
        frames = sorted({len(sequence.image_paths) for sequence in self})
        shown = str(frames[0]) if len(frames) == 1 else f"{frames[0]} to {frames[-1]}"
        skipped = ", ".join(f"{count} {reason}" for reason, count in self.skip_counts().items())
        return (
            f"{len(self)} sequences of {count} {'category' if count == 1 else 'categories'}, "
            f"{shown} frames each, frame list {self.frame_list().sha256[:12]}"
            + (f"; skipped: {skipped}" if skipped else "")
        )

    def frame_list(self) -> FrameList:
        """The frames that were read: shorter than a stored list when data is missing on disk, so its hash tells."""
        return FrameList({s.key: s.frame_indices for s in self.sequences}, list_config(self.config))


def first_sequences(sequences: Iterable[FramesType], count: int) -> tuple[FramesType, ...]:
    """`count` of them, the categories taking turns; in their order."""
    pool = tuple(sequences)
    groups: dict[str, list[FramesType]] = {}
    for sequence in pool:
        groups.setdefault(sequence.category, []).append(sequence)
    turns = [s for turn in zip_longest(*groups.values()) for s in turn if s is not None]
    taken = {s.key for s in turns[:count]}
    return tuple(s for s in pool if s.key in taken)


def list_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked, without where the data lies."""
    return {key: value for key, value in config.items() if key not in LOCATION}
