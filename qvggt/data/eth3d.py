"""ETH3D reader (high-resolution multi-view, training scenes): undistorted photographs, cameras, depth of a laser scan.

ROOT/<scene>/{images/dslr_images_undistorted/*.JPG, dslr_calibration_undistorted/{cameras,images}.txt}, of the archives
*_dslr_undistorted; ground_truth_depth/dslr_images/*.JPG, of *_dslr_depth; dslr_calibration_jpg/{cameras,images}.txt, of
*_dslr_jpg. Lengths in metres. The depth maps are of the original photographs, whose lens is a fisheye: each pixel of an
undistorted photograph takes the depth that the original has in its direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt.data import rooms
from qvggt.data.colmap_text import Camera, Posed, read_cameras, read_images
from qvggt.data.frame_list import FrameList, draw_frames
from qvggt.data.registry import Question, find_dataset
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.data.sequence import SequenceSet, Skipped
from qvggt.errors import QvggtError
from qvggt.files import reason

UNDISTORTED, ORIGINAL = "dslr_images_undistorted", "dslr_images"  # of images
CALIBRATION, LENSES = "dslr_calibration_undistorted", "dslr_calibration_jpg"
NAME = "dslr"  # a scene is one sequence
MOST = 2048  # pixels of a side of an undistorted depth map: no network sees more

Lenses = tuple[Camera, Camera]
"""Of an undistorted photograph, and of the original."""


def read_eth3d(question: Question, frame_list: FrameList | None = None) -> SequenceSet[EvalSequence]:
    """A sequence per scene: `frames` of its photographs, drawn. QvggtError for a layout, camera or list that does not
    fit, or nothing left."""
    question = find_dataset("eth3d").filled(question)
    assert question.frames is not None
    sequences, skipped = list[EvalSequence](), list[Skipped]()
    for folder in rooms.scene_folders(question, CALIBRATION):
        posed = read_images(folder / CALIBRATION / "images.txt")
        if frame_list is not None:
            indices, why = frame_list.frames.get(f"{folder.name}/{NAME}", ()), "not in frame list"
        elif len(posed) < max(question.frames, question.min_frames or 0):
            indices, why = (), "too few frames"
        else:
            indices, why = draw_frames(question.seed, folder.name, NAME, len(posed), question.frames), ""
        if max(indices, default=0) >= len(posed):
            raise QvggtError(f"frame list: {folder.name}: expected indices below {len(posed)}; draw the list again")
        if len(indices) < rooms.MIN_FRAMES:
            skipped.append(Skipped(folder.name, NAME, why))
        else:
            sequences.append(_sequence(folder, [posed[index] for index in indices], indices))
    if not sequences:
        raise QvggtError(f"{question.root}: no scene with {question.frames} photographs; check the root and --frames")
    facts = {"scenes": list(question.categories), **question.facts("root", "frames", "min_frames", "seed")}
    return SequenceSet(tuple(sequences), tuple(skipped), facts)


def _sequence(folder: Path, posed: list[Posed], indices: tuple[int, ...]) -> EvalSequence:
    cameras = read_cameras(folder / CALIBRATION / "cameras.txt")
    lenses = read_cameras(folder / LENSES / "cameras.txt")
    originals = {Path(image.name).name: image.camera for image in read_images(folder / LENSES / "images.txt")}
    images, depths, intrinsics = list[Path](), list[Path](), list[NDArray[np.float64]]()
    pairs: dict[Path, Lenses] = {}
    for image in posed:
        file = Path(image.name).name
        images.append(folder / "images" / UNDISTORTED / file)
        depths.append(folder / "ground_truth_depth" / ORIGINAL / file)
        for path, archive in ((images[-1], "undistorted"), (depths[-1], "depth")):
            if not path.is_file():
                raise QvggtError(f"{path}: no such file; unpack {folder.name}_dslr_{archive} there")
        try:
            pairs[depths[-1]] = cameras[image.camera], lenses[originals[file]]
        except KeyError as error:
            raise QvggtError(
                f"{folder}: {file}: has no camera in {CALIBRATION} or {LENSES}; unpack both again"
            ) from error
        fx, fy, cx, cy = cameras[image.camera].focal_centre
        intrinsics.append(np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]]))  # centres at whole coordinates
    return EvalSequence(
        category=folder.name,
        name=NAME,
        image_paths=tuple(images),
        frame_indices=indices,
        extrinsics=np.stack([image.extrinsics for image in posed]),
        intrinsics=np.stack(intrinsics),
        depth_paths=tuple(depths),
        depth_reader=partial(_undistorted, pairs),
    )


def _undistorted(pairs: Mapping[Path, Lenses], path: Path) -> NDArray[np.float32]:
    """Depth [h, w] of the undistorted photograph, 0 where unknown; thinned to at most `MOST` a side."""
    flat, lens = pairs[path]
    try:
        depth = np.fromfile(path, "<f4")
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); restore the file") from error
    if depth.size != lens.width * lens.height:
        raise QvggtError(
            f"{path}: expected {lens.width}x{lens.height} float32 values of a depth map, got {4 * depth.size} bytes; "
            "unpack ground_truth_depth again"
        )
    depth = depth.reshape(lens.height, lens.width)
    step = -(-max(flat.width, flat.height) // MOST)
    fx, fy, cx, cy = flat.focal_centre
    width, height = flat.width // step, flat.height // step
    u = ((np.arange(width) + 0.5) * (flat.width / width) - cx) / fx
    v = ((np.arange(height) + 0.5) * (flat.height / height) - cy) / fy
    x, y = (np.floor(places).astype(np.int64) for places in lens.project(*np.meshgrid(u, v)))
    inside = (x >= 0) & (x < lens.width) & (y >= 0) & (y < lens.height)
    found = depth[y.clip(0, lens.height - 1), x.clip(0, lens.width - 1)]
    return np.where(inside & np.isfinite(found) & (found > 0), found, 0).astype(np.float32)
