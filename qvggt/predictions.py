"""What every network predicts, in the words that families, files, runners and metrics share; no family has others."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float32]

CAMERAS = "pose_enc"
DEPTH, DEPTH_CONFIDENCE = "depth", "depth_conf"
POINTS, POINTS_CONFIDENCE = "world_points", "world_points_conf"
TRACKS, VISIBILITY, TRACK_CONFIDENCE = "track", "vis", "conf"  # of query points; not exported, so not among OUTPUTS

TRAILING: dict[str, tuple[int | str, ...]] = {
    CAMERAS: (9,),
    DEPTH: ("H", "W", 1),
    DEPTH_CONFIDENCE: ("H", "W"),
    POINTS: ("H", "W", 3),
    POINTS_CONFIDENCE: ("H", "W"),
}
"""Network outputs and their shape after the leading [1, S] (the exporter keeps it)."""

OUTPUTS = tuple(TRAILING)
VALUES = (CAMERAS, DEPTH, POINTS)  # outputs that are no confidence

SEMANTICS = {  # of a file's input and outputs, for its metadata
    "images": "RGB in [0, 1], [1, frames, 3, H, W], un-normalised",
    CAMERAS: "translation xyz, quaternion xyzw, vertical and horizontal field of view (rad); "
    "camera-from-world, OpenCV axes",
    DEPTH: "z-depth in scene units, [1, frames, H, W, 1]",
    POINTS: "xyz in the frame of the first camera, scene units",
}


@dataclass(frozen=True)
class Predictions:
    """What a runner computes for S frames of H x W pixels, float32, without the batch axis; None: no such output.

    pose_enc [S, 9]: see `qvggt.geometry.decode_pose`. depth [S, H, W]: along the camera z axis, scene units.
    world_points [S, H, W, 3]: in the frame of the first camera. The confidences [S, H, W] are >= 1.
    """

    pose_enc: Array
    depth: Array | None = None
    depth_conf: Array | None = None
    world_points: Array | None = None
    world_points_conf: Array | None = None

    def named(self) -> dict[str, Array]:
        """Output name -> array, of those that are there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __repr__(self) -> str:
        return f"Predictions({', '.join(f'{name} {list(value.shape)}' for name, value in self.named().items())})"

    def plot(self, images: Array | Tensor | None = None, path: str | Path | None = None) -> Figure:
        """A matplotlib figure: depth and confidence of up to six frames, and all cameras from above with what they see.

        images [S, 3, H, W] in [0, 1]: what the runner was given, to show too. path: where to save it, as its suffix
        says. QvggtError for images of another shape, or a path that cannot be written.
        """
        from qvggt.pictures import draw

        return draw(self, images, path)
