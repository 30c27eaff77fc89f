"""A COLMAP model, by pycolmap: binary in sparse/0, text in sparse_text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.images import Resize
from qvggt.errors import QvggtError
from qvggt.eval.reconstruction.cloud import Cloud

Array = NDArray[Any]
BINARY, TEXT = "sparse/0", "sparse_text"


def import_pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise QvggtError("COLMAP models need pycolmap: pip install '.[reconstruct]' in the clone") from error
    return pycolmap


def write_colmap(
    folder: Path,
    names: Sequence[str],
    extrinsics: Array,
    intrinsics: Array,
    resizes: Sequence[Resize],
    cloud: Cloud,
    size: tuple[int, int],
) -> None:
    """Write the model twice, binary and text, below `folder`.

    extrinsics [F, 3, 4] and intrinsics [F, 3, 3] of the original images become one PINHOLE camera per image. Each
    point has one observation: the place in its original image where its network pixel (of size (H, W) canvases) has
    its centre, so its reprojection error is that of the depth map alone.
    """
    pycolmap = import_pycolmap()
    model = pycolmap.Reconstruction()
    seen = np.argsort(cloud.frame, kind="stable")
    bounds = np.searchsorted(cloud.frame[seen], np.arange(len(names) + 1))
    for index, (name, e, k, resize) in enumerate(zip(names, extrinsics, intrinsics, resizes, strict=True)):
        number = index + 1  # COLMAP counts from 1
        camera = pycolmap.Camera(
            camera_id=number,
            model="PINHOLE",
            width=resize.source_width,
            height=resize.source_height,
            params=[k[0, 0], k[1, 1], k[0, 2], k[1, 2]],
        )
        mine = seen[bounds[index] : bounds[index + 1]]
        x, y = resize.source_grid(*size)
        places = np.stack([x[cloud.pixel[mine, 0]], y[cloud.pixel[mine, 1]]], axis=1)
        model.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name=name, keypoints=places, camera_id=number, image_id=number)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(e[:, :3]), e[:, 3])
        model.add_image_with_trivial_frame(image, pose)
        for place, point in enumerate(mine):
            track = pycolmap.Track([pycolmap.TrackElement(number, place)])
            model.add_point3D(cloud.points[point].astype(np.float64), track, cloud.colours[point])
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
    # COLMAP's layouts: a count of 8 bytes, then records; PINHOLE has four parameters, every point one observation
    sizes = {
        "cameras.bin": 8 + 56 * model.num_cameras(),
        "images.bin": 8 + 72 * len(images) + names + 24 * observations,
        "points3D.bin": 8 + 59 * points,
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
