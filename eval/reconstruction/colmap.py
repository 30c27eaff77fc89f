"""A COLMAP model, by pycolmap: binary in sparse/0, text in sparse_text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.images import Resize
from qvggt.errors import QvggtError
from qvggt.eval.reconstruction.cloud import Cloud
from qvggt.lazy import optional

Array = NDArray[Any]
BINARY, TEXT = "sparse/0", "sparse_text"


def import_pycolmap() -> Any:
    return optional("pycolmap", "COLMAP models need pycolmap: pip install '.[reconstruct]' in the clone")


@dataclass(frozen=True)
class Views:
    """F images: file names, extrinsics [F, 3, 4], intrinsics [F, 3, 3] of the originals. shared: by one camera."""

    names: Sequence[str]
    extrinsics: Array
    intrinsics: Array
    resizes: Sequence[Resize]
    shared: bool = False

    def camera_number(self, index: int) -> int:
        """COLMAP's, which counts from 1."""
        return 1 if self.shared else index + 1


def check_one_size(names: Sequence[str], resizes: Sequence[Resize]) -> None:
    """QvggtError when images that one camera is said to have taken differ in size."""
    sizes = {(r.source_width, r.source_height): n for n, r in zip(names, resizes, strict=True)}
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        raise QvggtError(
            f"--shared-camera: expected images of one size, got {a[0]}x{a[1]} ({first}) and {b[0]}x{b[1]} ({second}); "
            "leave it out"
        )


def one_camera(views: Views) -> Views:
    """The same images, all taken by one camera: the median of what was found."""
    median = np.median(views.intrinsics, axis=0)
    return replace(views, intrinsics=np.broadcast_to(median, views.intrinsics.shape), shared=True)


def new_model(views: Views, places: Sequence[Array]) -> Any:
    """A pycolmap.Reconstruction with cameras and images, and no points yet. places [N_i, 2]: keypoints of image i."""
    pycolmap = import_pycolmap()
    model = pycolmap.Reconstruction()
    rows = zip(views.names, views.extrinsics, views.intrinsics, views.resizes, places, strict=True)
    for index, (name, e, k, resize, found) in enumerate(rows):
        number = views.camera_number(index)
        if index == 0 or not views.shared:
            camera = pycolmap.Camera(
                camera_id=number,
                model="PINHOLE",
                width=resize.source_width,
                height=resize.source_height,
                params=[k[0, 0], k[1, 1], k[0, 2], k[1, 2]],
            )
            model.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name=name, keypoints=found, camera_id=number, image_id=index + 1)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(e[:, :3]), e[:, 3])
        model.add_image_with_trivial_frame(image, pose)
    return model


def dense_model(views: Views, cloud: Cloud, size: tuple[int, int]) -> Any:
    """Each point has one observation: the place in its original image where its network pixel (of size (H, W) canvases)
    has its centre, so its reprojection error is that of the depth map alone."""
    pycolmap = import_pycolmap()
    seen = np.argsort(cloud.frame, kind="stable")
    bounds = np.searchsorted(cloud.frame[seen], np.arange(len(views.names) + 1))
    mine = [seen[low:high] for low, high in pairwise(bounds)]
    places = []
    for own, resize in zip(mine, views.resizes, strict=True):
        x, y = resize.source_grid(*size)
        places.append(np.stack([x[cloud.pixel[own, 0]], y[cloud.pixel[own, 1]]], axis=1))
    model = new_model(views, places)
    for index, own in enumerate(mine):
        for place, point in enumerate(own):
            track = pycolmap.Track([pycolmap.TrackElement(index + 1, place)])
            model.add_point3D(cloud.points[point].astype(np.float64), track, cloud.colours[point])
    return model


def write_colmap(folder: Path, model: Any) -> None:
    """Write the model twice, binary and text, below `folder`."""
    model.update_point_3d_errors()
    for sub, write in ((BINARY, model.write_binary), (TEXT, model.write_text)):
        target = folder / sub
        target.mkdir(parents=True)
        write(str(target))
        check_written(target, model)


def check_written(folder: Path, model: Any) -> None:
    """pycolmap does not notice a full disk: are the files as long as the model makes them? QvggtError if not.

    Reading them back would be no way to find out: a truncated file can make pycolmap ask for gigabytes.
    """
    points, images = model.num_points3D(), list(model.images.values())
    observations = sum(len(image.points2D) for image in images)
    names = sum(len(image.name.encode()) + 1 for image in images)
    tracked = sum(point.track.length() for point in model.points3D.values())
    # COLMAP's layouts: a count of 8 bytes, then records; PINHOLE has four parameters
    sizes = {
        "cameras.bin": 8 + 56 * model.num_cameras(),
        "images.bin": 8 + 72 * len(images) + names + 24 * observations,
        "points3D.bin": 8 + 51 * points + 8 * tracked,
    }
    lines = {"cameras.txt": model.num_cameras(), "images.txt": 2 * len(images), "points3D.txt": points}
    for path in (folder / name for name in (*sizes, *lines)):
        if path.suffix == ".bin" and path.is_file():
            whole = path.stat().st_size == sizes[path.name]
        elif path.is_file():
            text = path.read_bytes()
            whole = text.endswith(b"\n") and text.count(b"\n") - text.count(b"#") == lines[path.name]
        else:
            continue
        if not whole:
            raise QvggtError(f"{path.name}: was not written whole; is the disk full? Free some space")
