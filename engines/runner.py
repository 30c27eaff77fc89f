"""One interface to everything that turns images into predictions: PyTorch, ONNX Runtime, later engines (DESIGN 6)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from qvggt import __version__
from qvggt.errors import QvggtError
from qvggt.models.family import MemoryFacts
from qvggt.predictions import CAMERAS, DEPTH, OUTPUTS, TRAILING, Predictions
from qvggt.tensor_shards import weight_files, weights_sha256

if TYPE_CHECKING:
    from torch import Tensor

    from qvggt.quant.scheme import Scheme

Array = NDArray[np.float32]
Self = TypeVar("Self", bound="Runner")


@dataclass(frozen=True)
class ModelFile:
    """A file a runner reads its network from; its path from the working directory, where it lies inside that. The index
    of weights in shards stands for all of them."""

    path: str
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path, sha256: str | None = None) -> ModelFile:
        """Hash and measure a file, of which the hash may be known; QvggtError when it cannot be read."""
        here = Path.cwd()
        shown = path.relative_to(here) if path.is_relative_to(here) else path
        return cls(str(shown), sha256 or weights_sha256(path), sum(file.stat().st_size for file in weight_files(path)))


@dataclass(frozen=True)
class NetworkSizes:
    """What decides how much memory a pass takes. fused: attention never holds its score matrix; chunk: most frames a
    dense head works on at once (None: all)."""

    sizes: MemoryFacts
    fused: bool = False
    chunk: int | None = None


class Runner(ABC):
    """Images in, predictions out; a context manager that frees the network on leaving.

    label: short name for tables. device: where it runs, "cpu" or "cuda[:N]". size: the only (H, W) the network takes,
    None when any multiple of the patch size works. native_size: the side it was made for, where known. frames: the only
    frame count, None when any works. frame_range: fewest and most frames its memory was set aside for, None when it
    grows with them. outputs: names among OUTPUTS that it computes. scheme: of the quantization, where known. notes:
    what a user should know of the file or of how it was opened, a line each. held: attributes that `close` drops, the
    network first.
    """

    held: ClassVar[tuple[str, ...]] = ()

    label: str
    device: str = "cpu"
    size: tuple[int, int] | None = None
    native_size: int | None = None
    frames: int | None = None
    frame_range: tuple[int, int] | None = None
    outputs: tuple[str, ...] = OUTPUTS
    files: tuple[ModelFile, ...] = ()
    scheme: Scheme | None = None
    notes: tuple[str, ...] = ()

    def __call__(self, images: Array) -> Predictions:
        """images float32 [S, 3, H, W], RGB in [0, 1], un-normalised -> predictions.

        QvggtError for a wrong shape or type, a size or frame count the network was not built for, or a network
        without poses.
        """
        if CAMERAS not in self.outputs:
            raise QvggtError(
                f"{self.label}: computes no {CAMERAS}, only {', '.join(self.outputs)}; export it with pose"
            )
        return strip_batch(self.run_named(images), images.shape, self.label)

    def run_named(self, images: Array, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """As `__call__`, but the raw network outputs by name, with their leading [1, S].

        outputs: which of the network's, default all; QvggtError for a name it has not.
        """
        self._check(images)
        return self._run(images) if outputs is None else self._run_chosen(images, self._chosen(outputs))

    def run_device(self, images: Any, outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As `run_named`, with tensors that stay on the GPU: what engines do, and others raise QvggtError for."""
        raise QvggtError(f"{self.label}: takes and returns numpy arrays; build an engine for tensors on the GPU")

    def _run_chosen(self, images: Array, outputs: Sequence[str]) -> dict[str, Array]:
        """As `_run`; a runner that gains from it leaves the other outputs where they are."""
        found = self._run(images)
        return {name: found[name] for name in outputs}

    def _chosen(self, outputs: Sequence[str] | None) -> tuple[str, ...]:
        unknown = [name for name in outputs or () if name not in self.outputs]
        if unknown:
            raise QvggtError(f"{self.label}: computes no {unknown[0]}, only {', '.join(self.outputs)}")
        return self.outputs if outputs is None else tuple(outputs)

    @abstractmethod
    def _run(self, images: Array) -> dict[str, Array]:
        """The network on checked images [S, 3, H, W]."""

    def close(self) -> None:
        """Free the network; calling twice is harmless."""
        for name in self.held:
            setattr(self, name, None)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return getattr(self, self.held[0]) is None

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The (H, W) it takes, () when any multiple of the patch size works."""
        return () if self.size is None else (self.size,)

    @property
    def scheme_label(self) -> str:
        return "unknown scheme" if self.scheme is None else self.scheme.label

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for a report: kind, label, files with hashes, scheme, where it runs, versions."""

    def __repr__(self) -> str:
        closed = ", closed" if self.closed else ""
        outputs = ", ".join(self.outputs)
        return f"{type(self).__name__}({self.label!r}, device {self.device}, outputs {outputs}{closed})"

    def network_sizes(self) -> NetworkSizes | None:
        """What memory estimates need; None where it is not known."""
        return None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _facts(self) -> dict[str, Any]:
        """The part of `describe` that every runner has."""
        return {
            "label": self.label,
            "file": self.files[0].path if self.files else None,
            "sha256": self.files[0].sha256 if self.files else None,
            "bytes": sum(file.bytes for file in self.files),
            "files": [vars(file) for file in self.files],
            "size": None if self.size is None else list(self.size),
            "outputs": list(self.outputs),
            "scheme": self.scheme_label,
            "scheme_json": None if self.scheme is None else self.scheme.to_dict(),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def _check(self, images: Array) -> None:
        if self.closed:
            raise RuntimeError(f"{self.label}: this runner is closed")
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            kind = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise QvggtError(f"{self.label}: expected images as a float32 numpy array, got {kind}")
        self._check_shape(images.shape)
        if not np.isfinite(images).all():
            raise QvggtError(f"{self.label}: the images hold NaN or infinity, expected values in [0, 1]")

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 4 or shape[1] != 3 or 0 in shape:
            raise QvggtError(f"{self.label}: expected images of shape [S, 3, H, W], got {list(shape)}")
        height, width = shape[2:]
        if self.sizes and (height, width) not in self.sizes:
            shown = " or ".join(f"{h}x{w}" for h, w in self.sizes)
            raise QvggtError(
                f"{self.label}: expected images of {shown} (H x W), got {height}x{width}; "
                "resize them, or export the model at that size"
            )
        if self.frames is not None and shape[0] != self.frames:
            raise QvggtError(f"{self.label}: expected {self.frames} frames, got {shape[0]}; export for any count")


def versions(**packages: str) -> dict[str, str]:
    """Of the packages a runner depends on, for `describe`."""
    return {"qvggt": __version__, **packages, "numpy": np.__version__}


def strip_batch(outputs: Mapping[str, Array], images_shape: tuple[int, ...], label: str) -> Predictions:
    """Network outputs [1, S, ...] of images [S, 3, H, W] -> Predictions; QvggtError names one that does not fit."""
    sides = {"H": images_shape[2], "W": images_shape[3]}
    named: dict[str, Array] = {}
    for name, value in outputs.items():
        expected = (1, images_shape[0], *(sides.get(str(side), side) for side in TRAILING[name]))
        if value.shape != expected:
            raise QvggtError(f"{label}: output {name}: expected shape {list(expected)}, got {list(value.shape)}")
        stripped = value[0, ..., 0] if name == DEPTH else value[0]
        named[name] = np.ascontiguousarray(stripped, dtype=np.float32)
    return Predictions(**named)
