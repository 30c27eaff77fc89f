"""DTU reader: images, cameras and depth in MVSNet's layout, and the scans of DTU's own evaluation.

ROOT/Cameras/%08d_cam.txt, Rectified/scan<n>/rect_%03d_3_r5000.png and Depths/scan<n>/depth_map_%04d.pfm, both of
1600x1200 (or in Rectified_raw and Depths_raw); Points/stl/stl%03d_total.ply, ObsMask/ObsMask<n>_10.mat and
ObsMask/Plane<n>.mat. Lengths in millimetres. Views count from 0 in cameras and depth maps, from 1 in images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt.data import rooms
from qvggt.data.frame_list import FrameList
from qvggt.data.image_file import image_size
from qvggt.data.registry import Question
from qvggt.data.scan import Scan
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.data.sequence import SequenceSet, Skipped
from qvggt.errors import QvggtError
from qvggt.files import line, reason

TEST_SCANS = (1, 4, 9, 10, 11, 12, 13, 15, 23, 24, 29, 32, 33, 34, 48, 49, 62, 75, 77, 110, 114, 118)
"""Those that papers report."""

NAME = "all"  # a scan is one sequence
VIEWS = 49  # some scans have 64, of which these are used
OFF_CENTRE = 0.25  # of half a side: no principal point of DTU's lies farther from the middle of its image


def read_dtu(question: Question, frame_list: FrameList | None = None) -> SequenceSet[EvalSequence]:
    """A sequence per scan: the 22 that papers report, as far as they are there, else all; every `stride`-th view.

    Without Points and ObsMask the sequences have no scan, and a note says so. QvggtError for a layout, camera or list
    that does not fit, or nothing left.
    """
    question, stride = rooms.settled(question, "dtu")
    root, images = question.root, _full_size(question.root, "Rectified")
    folders = rooms.scene_folders(replace(question, root=images), _image(Path(), 0).name)
    usual = [folder for folder in folders if folder.name in {f"scan{number}" for number in TEST_SCANS}]
    sequences, skipped = list[EvalSequence](), list[Skipped]()
    for folder in folders if question.categories else usual or folders:
        there = [view for view in range(VIEWS) if _image(folder, view).is_file()]
        views: Sequence[int] = there[::stride][: question.frames]
        why = "too few frames"
        if frame_list is not None:
            views, why = frame_list.frames.get(f"{folder.name}/{NAME}", ()), "not in frame list"
        if absent := sorted({*views}.difference(there)):
            raise QvggtError(f"frame list: {folder.name}: view {absent[0]} is not on disk; restore it or draw another")
        if len(views) < rooms.MIN_FRAMES:
            skipped.append(Skipped(folder.name, NAME, why))
        else:
            sequences.append(_sequence(root, folder, views))
    facts = {"scenes": list(question.categories), **question.facts("root", "stride", "frames")}
    if not sequences:
        raise QvggtError(f"{root}: no scan with {rooms.MIN_FRAMES} views; check the root, the scans and the stride")
    without = f"{root}: has no Points and ObsMask: points are measured by the depth maps, and the figures are not DTU's"
    notes = (without,) if sequences[0].scan is None else ()
    return SequenceSet(tuple(sequences), tuple(skipped), facts, notes)


def _sequence(root: Path, folder: Path, views: Sequence[int]) -> EvalSequence:
    images = tuple(_image(folder, view) for view in views)
    depths = tuple(_full_size(root, "Depths") / folder.name / f"depth_map_{view:04d}.pfm" for view in views)
    for path in depths:
        if not path.is_file():
            raise QvggtError(f"{path}: no such file, but {folder.name} has an image of that view; restore it")
    files = [root / "Cameras" / f"{view:08d}_cam.txt" for view in views]
    cameras = [_camera(path) for path in files]
    intrinsics = np.stack([intrinsics for _, intrinsics in cameras])
    _check_size(images[0], files[0], intrinsics[0])
    return EvalSequence(
        category=folder.name,
        name=NAME,
        image_paths=images,
        frame_indices=tuple(views),
        extrinsics=np.stack([extrinsics for extrinsics, _ in cameras]),
        intrinsics=intrinsics,
        depth_paths=depths,
        depth_reader=read_pfm,
        scan=_scan(root, folder.name.removeprefix("scan")),
    )


def _full_size(root: Path, name: str) -> Path:
    """MVSNet's training set keeps the full-size files beside smaller ones."""
    raw = root / f"{name}_raw"
    return raw if raw.is_dir() else root / name


def _image(folder: Path, view: int) -> Path:
    return folder / f"rect_{view + 1:03d}_3_r5000.png"  # of the light that MVSNet is tested with


def _scan(root: Path, number: str) -> Scan | None:
    """QvggtError where one of its files is missing, and the others, or those of other scans, are there."""
    if not number.isdecimal() or not any((root / name).is_dir() for name in ("Points", "ObsMask")):
        return None
    scan = Scan(
        root / "Points" / "stl" / f"stl{int(number):03d}_total.ply",
        root / "ObsMask" / f"ObsMask{number}_10.mat",
        root / "ObsMask" / f"Plane{number}.mat",
    )
    for path in vars(scan).values():
        if not path.is_file():
            raise QvggtError(f"{path}: no such file; unpack DTU's Points and, of its SampleSet, ObsMask there")
    return scan


def _camera(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Extrinsics [3, 4] camera-from-world and intrinsics [3, 3]; QvggtError for a file that is none of MVSNet's."""
    try:
        words = path.read_text(encoding="ascii").split()
        if (words[0], words[17]) != ("extrinsic", "intrinsic"):
            raise ValueError(f"{words[0][:20]} and {words[17][:20]}")
        numbers = np.array([float(word) for word in (*words[1:17], *words[18:27])])
        extrinsics, intrinsics = numbers[:16].reshape(4, 4), numbers[16:].reshape(3, 3)
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); restore the file") from error
    except (ValueError, IndexError) as error:
        why = f"expected extrinsic, 4x4 numbers, intrinsic and 3x3 numbers, got {line(error)}"
        raise QvggtError(f"{path}: {why}; restore the file") from error
    return extrinsics[:3], intrinsics


def _check_size(image: Path, camera: Path, intrinsics: NDArray[np.float64]) -> None:
    """QvggtError where the camera is of smaller images, as those of MVSNet's training are."""
    sides = image_size(image, upright=False)
    if (np.abs(intrinsics[:2, 2] / np.array(sides) * 2 - 1) > OFF_CENTRE).any():
        x, y = intrinsics[:2, 2]
        raise QvggtError(
            f"{camera}: its principal point ({x:.0f}, {y:.0f}) is not of {sides[0]}x{sides[1]} images as {image.name}; "
            "give the full-size images (1600x1200) with the cameras of Cameras/"
        )


def read_pfm(path: Path) -> NDArray[np.float32]:
    """A greyscale PFM file [H, W], 0 where a value is not finite or not positive. QvggtError for another file."""
    try:
        kind, sides, scale, values = path.read_bytes().split(b"\n", 3)
        if kind.strip() != b"Pf":
            raise ValueError(f"kind {kind[:8]!r}")
        width, height = map(int, sides.split())
        rows = np.frombuffer(values, ("<" if float(scale) < 0 else ">") + "f4").reshape(height, width)[::-1]
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); restore the file") from error
    except ValueError as error:
        raise QvggtError(f"{path}: expected a greyscale PFM depth map, got {line(error)}; restore the file") from error
    return np.where(np.isfinite(rows) & (rows > 0), rows, 0).astype(np.float32)
