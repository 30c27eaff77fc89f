"""The one interface of everything that runs the network: images in, predictions out (DESIGN section 6)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qvggt.errors import QvggtError

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """Outputs for S frames of H x W pixels, fp32; None where the runner does not compute it.

    pose_enc [S, 9]: translation, quaternion xyzw, fov h and w (rad), camera-from-world, OpenCV axes. depth [S, H, W]
    (z-depth) and depth_conf; world_points [S, H, W, 3] (frame of camera 0) and world_points_conf.
    """

    pose_enc: Array | None = None
    depth: Array | None = None
    depth_conf: Array | None = None
    world_points: Array | None = None
    world_points_conf: Array | None = None

    @classmethod
    def from_outputs(cls, outputs: dict[str, Array]) -> Predictions:
        """From the network's named outputs, whose leading batch axis of one is dropped."""
        values = {name: np.asarray(value[0], np.float32) for name, value in outputs.items()}
        if "depth" in values:
            values["depth"] = values["depth"][..., 0]
        return cls(**values)

    def items(self) -> dict[str, Array]:
        """The outputs that exist, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Runner(ABC):
    """Runs the network on images float32 [S, 3, H, W] in [0, 1]; a context manager that frees what it holds."""

    label: str  # short name for tables
    size: tuple[int, int] | None = None  # the only (H, W) it takes, None for any multiple of the patch

    @abstractmethod
    def __call__(self, images: Tensor) -> Predictions: ...

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON-serialisable facts: kind, file, sha256, bytes, scheme, provider, versions."""

    def close(self) -> None:  # noqa: B027 (nothing to free is a valid answer)
        """Free what the runner holds; it cannot be called afterwards."""

    def check(self, images: Tensor) -> None:
        """QvggtError unless the images have the shape this runner takes."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise QvggtError(f"{self.label}: expected images [S, 3, H, W], got {list(images.shape)}")
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            wanted, got = "x".join(map(str, self.size)), "x".join(map(str, images.shape[-2:]))
            raise QvggtError(f"{self.label}: takes images of {wanted}, got {got}; export again with --size {got}")

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
