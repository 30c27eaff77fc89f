"""COLMAP models whose points are seen in several images, as bundle adjustment needs them: from matched features, or
from the tracks of a network that has its track head."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.eval.reconstruction.colmap import Views, import_pycolmap, new_model
from qvggt.eval.reconstruction.tracks import Tracks

Array = NDArray[Any]

EXHAUSTIVE = 60  # images of which every pair is matched; of more, neighbours in their order
ERROR = (
    0.008  # of the image's longer side, the largest reprojection error of a point that is kept: predicted cameras are
)
# off by some pixels, which bundle adjustment is there to repair (COLMAP's own 4 pixels are for cameras it adjusted)
SURE = 0.5  # visibility and confidence of a place of a track that counts
GRID = 32  # queries a side where the user gave none


def matched_model(views: Views, images: Path) -> Any:
    """SIFT features of the pictures in `images`, matched, and triangulated from the cameras of `views`, which stay."""
    pycolmap = import_pycolmap()
    names = list(views.names)
    with tempfile.TemporaryDirectory(prefix="qvggt-colmap-") as folder, _quiet(pycolmap):
        database, cpu = str(Path(folder) / "features.db"), pycolmap.Device.cpu
        model = new_model(views, [np.zeros((0, 2))] * len(names))
        with pycolmap.Database.open(database) as opened:  # under the model's numbers, which COLMAP's threads would mix
            for camera in model.cameras.values():
                opened.write_camera(camera, use_camera_id=True)
            for rig in model.rigs.values():
                opened.write_rig(rig, use_rig_id=True)
            for frame in model.frames.values():
                opened.write_frame(frame, use_frame_id=True)
            for image in model.images.values():
                opened.write_image(image, use_image_id=True)
        mode = pycolmap.CameraMode.SINGLE if views.shared else pycolmap.CameraMode.PER_IMAGE
        reader = pycolmap.ImageReaderOptions(camera_model="PINHOLE")
        pycolmap.extract_features(database, str(images), names, mode, reader, device=cpu)
        (pycolmap.match_exhaustive if len(names) <= EXHAUSTIVE else pycolmap.match_sequential)(database, device=cpu)
        options = pycolmap.IncrementalPipelineOptions()
        longest = max(max(r.source_width, r.source_height) for r in views.resizes)
        limit = max(options.mapper.filter_max_reproj_error, ERROR * longest)
        options.mapper.filter_max_reproj_error = limit
        options.triangulation.merge_max_reproj_error = options.triangulation.complete_max_reproj_error = limit
        return pycolmap.triangulate_points(model, database, str(images), folder, options=options)


def tracked_model(views: Views, tracks: Tracks, points: Array, colours: Array, kept: Array) -> Any:
    """A point for every track that is kept (bool [N]) and seen by two images or more. points float [N, 3], where the
    first image has it; colours uint8 [N, 3]; tracks in pixels of the originals."""
    pycolmap = import_pycolmap()
    sure = (tracks.visibility > SURE) & (tracks.confidence > SURE) & np.isfinite(tracks.places).all(-1)
    limits = np.array([[r.source_width, r.source_height] for r in views.resizes])[:, None]
    sure &= ((tracks.places >= 0) & (tracks.places < limits)).all(-1)
    sure[0] = True  # where it was asked for
    sure &= kept & np.isfinite(points).all(-1) & (sure.sum(0) > 1)
    numbers = np.where(sure, np.cumsum(sure, axis=1) - 1, -1)
    model = new_model(
        views, [places[mask].astype(np.float64) for places, mask in zip(tracks.places, sure, strict=True)]
    )
    for index in np.flatnonzero(sure[0]):
        seen = [pycolmap.TrackElement(int(i) + 1, int(numbers[i, index])) for i in np.flatnonzero(sure[:, index])]
        model.add_point3D(points[index].astype(np.float64), pycolmap.Track(seen), colours[index])
    return model


@contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    """Without COLMAP's own progress on stderr."""
    before = pycolmap.logging.stderrthreshold, pycolmap.logging.minloglevel
    pycolmap.logging.stderrthreshold, pycolmap.logging.minloglevel = 3, 3
    try:
        yield
    finally:
        pycolmap.logging.stderrthreshold, pycolmap.logging.minloglevel = before
