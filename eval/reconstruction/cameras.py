"""cameras.json: every camera in words that need no manual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.images import Resize
from qvggt.data.photos import Photo
from qvggt.eval.reconstruction.scene import Scene

Array = NDArray[Any]

CONVENTIONS = {
    "axes": "OpenCV: x right, y down, z forward",
    "world": "frame of the first camera, unit of length arbitrary",
    "camera_from_world": "3x4 [R | T], p_camera = R p_world + T",
    "intrinsics": "3x3, pixels of the upright image (EXIF orientation undone) in images/; pixel i covers [i, i+1)",
    "network": "the resized image the network saw; x_network = scale_x * x + offset_x, likewise y, edges as above; its "
    "own intrinsics send the ray of pixel (u, v) through (u, v)",
}


def describe_cameras(photos: Sequence[Photo], scene: Scene, resizes: Sequence[Resize]) -> dict[str, Any]:
    """JSON-ready: conventions, and per image its file, camera and what the network saw of it."""
    height, width = scene.confidence.shape[1:]
    cameras = []
    own = (scene.source_intrinsics(resizes), scene.extrinsics, scene.intrinsics)
    for index, (photo, resize, k, e, network) in enumerate(zip(photos, resizes, *own, strict=True), start=1):
        cameras.append(
            {
                "id": index,
                "image": photo.name,
                "source": photo.source,
                "time_s": photo.time,
                "exif_orientation": photo.orientation,
                "width": photo.width,
                "height": photo.height,
                "intrinsics": k.tolist(),
                "camera_from_world": e.tolist(),
                "centre": (-e[:, :3].T @ e[:, 3]).tolist(),
                "fov_deg": field_of_view(k, photo.width, photo.height),
                "network": {
                    "width": width,
                    "height": height,
                    "intrinsics": network.tolist(),
                    **{name: getattr(resize, name) for name in ("scale_x", "scale_y", "offset_x", "offset_y")},
                },
            }
        )
    return {"format": "qvggt-cameras", "version": 1, "conventions": CONVENTIONS, "cameras": cameras}


def field_of_view(k: Array, width: int, height: int) -> list[float]:
    """Horizontal and vertical angle of view of the whole image, degrees."""
    angles = []
    for side, focal, centre in ((width, k[0, 0], k[0, 2]), (height, k[1, 1], k[1, 2])):
        angles.append(float(np.degrees(np.arctan(centre / focal) + np.arctan((side - centre) / focal))))
    return angles
