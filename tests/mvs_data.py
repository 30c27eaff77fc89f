"""Generated scenes in the layouts of DTU (as MVSNet has it) and ETH3D."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.spatial.transform import Rotation

from qvggt.data.colmap_text import Camera
from qvggt.data.synthetic.render import Views, render
from qvggt.data.synthetic.scene import Scene, SceneConfig, sample_scene
from qvggt.eval.points import true_points

MM = 100.0  # of a scene unit


def small_views(frames: int, seed: int, height: int = 48, width: int = 64) -> tuple[Scene, Views]:
    config = SceneConfig(height=height, width=width, frames=frames)
    scene = sample_scene(config, seed)
    return scene, render(scene, config)


def write_pfm(path: Path, depth: np.ndarray) -> None:
    height, width = depth.shape
    path.write_bytes(f"Pf\n{width} {height}\n-1.000000\n".encode() + depth[::-1].astype("<f4").tobytes())


def write_ply(path: Path, points: np.ndarray) -> None:
    """As DTU has it: binary, with normals and colours beside the points."""
    kinds = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")] + [(name, "u1") for name in ("r", "g", "b")]
    rows = np.zeros(len(points), kinds)
    for axis, values in zip("xyz", points.T, strict=True):
        rows[axis] = values
    properties = "".join(f"property {'float' if kind == '<f4' else 'uchar'} {name}\n" for name, kind in kinds)
    header = f"ply\nformat binary_little_endian 1.0\ncomment DTU\nelement vertex {len(points)}\n{properties}"
    header += "element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    path.write_bytes(header.encode() + rows.tobytes())


def world_points(views: Views) -> np.ndarray:
    """[F, H, W, 3] in millimetres, in the world of the cameras."""
    first = views.extrinsics[0]
    points = true_points(views.depth, views.extrinsics, views.intrinsics)
    return MM * ((points - first[:, 3]) @ first[:, :3])


def write_dtu(root: Path, number: int, views: Views, scan: bool = True) -> Path:
    """One scan; its cameras are those of all scans."""
    images, depths = root / "Rectified" / f"scan{number}", root / "Depths" / f"scan{number}"
    for folder in (images, depths, root / "Cameras"):
        folder.mkdir(parents=True, exist_ok=True)
    for view, (image, depth, extrinsics, intrinsics) in enumerate(
        zip(views.images, views.depth, views.extrinsics, views.intrinsics, strict=True)
    ):
        Image.fromarray(image).save(images / f"rect_{view + 1:03d}_3_r5000.png")
        write_pfm(depths / f"depth_map_{view:04d}.pfm", MM * depth)
        pose = np.concatenate([extrinsics * [1, 1, 1, MM], [[0, 0, 0, 1]]])
        rows = [" ".join(map(repr, row)) for row in pose.tolist()]
        inner = [" ".join(map(repr, row)) for row in intrinsics.tolist()]
        text = "\n".join(["extrinsic", *rows, "", "intrinsic", *inner, "", "425.0 2.5", ""])
        (root / "Cameras" / f"{view:08d}_cam.txt").write_text(text)
    if scan:
        points = world_points(views).reshape(-1, 3)
        (root / "Points" / "stl").mkdir(parents=True, exist_ok=True)
        (root / "ObsMask").mkdir(exist_ok=True)
        write_ply(root / "Points" / "stl" / f"stl{number:03d}_total.ply", points)
        low, high, cell = points.min(0) - 5, points.max(0) + 5, 20.0
        seen = np.ones(np.ceil((high - low) / cell).astype(int) + 1, np.uint8)
        held = {"ObsMask": seen, "BB": np.stack([low, high]), "Res": cell}
        savemat(root / "ObsMask" / f"ObsMask{number}_10.mat", held)
        savemat(root / "ObsMask" / f"Plane{number}.mat", {"P": np.array([[0.0], [0.0], [1.0], [1000.0]])})
    return images


PINHOLE = Camera("PINHOLE", 62, 42, (40.0, 41.0, 31.5, 20.0))
FISHEYE = Camera(
    "THIN_PRISM_FISHEYE", 72, 50, (42.0, 43.0, 36.3, 24.7, -0.15, 0.02, 0.01, -0.02, 0.01, -0.005, 0.02, -0.01)
)
WALL = np.array([0.3, -0.25, 1.0]), 4.0  # of each camera: n . p = d


def wall_depth(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Along (u, v, 1)."""
    normal, offset = WALL
    return offset / (normal[0] * u + normal[1] * v + normal[2])


def fisheye_depth() -> np.ndarray:
    """Of the wall, in the pixels of the distorted photograph: its lens inverted by iteration."""
    x, y = np.meshgrid(np.arange(FISHEYE.width) + 0.5, np.arange(FISHEYE.height) + 0.5)
    fx, fy, cx, cy = FISHEYE.focal_centre
    u, v = (x - cx) / fx, (y - cy) / fy
    for _ in range(60):
        at_x, at_y = FISHEYE.project(u, v)
        u, v = u + (x - at_x) / fx, v + (y - at_y) / fy
    return wall_depth(u, v)


def write_eth3d(root: Path, scene: str, poses: np.ndarray) -> Path:
    """Photographs of a wall from poses [F, 3, 4]; the upper left corner of each depth map is unknown."""
    folder = root / scene
    kinds = (("undistorted", "dslr_images_undistorted", PINHOLE, 3), ("jpg", "dslr_images", FISHEYE, 1))
    for suffix, images, camera, number in kinds:
        calibration = folder / f"dslr_calibration_{suffix}"
        calibration.mkdir(parents=True)
        params = " ".join(map(repr, camera.params))
        (calibration / "cameras.txt").write_text(
            f"# Camera list\n{number} {camera.model} {camera.width} {camera.height} {params}\n"
        )
        lines = ["# Image list with two lines of data per image:"]
        for index in reversed(range(len(poses))):
            x, y, z, w = Rotation.from_matrix(poses[index, :, :3]).as_quat().tolist()
            numbers = " ".join(map(repr, (w, x, y, z, *poses[index, :, 3].tolist())))
            lines += [f"{index + 7} {numbers} {number} {images}/DSC_{index:04d}.JPG", "1.5 2.5 -1" if index else ""]
        (calibration / "images.txt").write_text("\n".join(lines) + "\n")
    places = folder / "images" / "dslr_images_undistorted", folder / "ground_truth_depth" / "dslr_images"
    for place in places:
        place.mkdir(parents=True)
    depth = fisheye_depth()
    depth[:16, :20] = np.inf
    for index in range(len(poses)):
        Image.new("RGB", (PINHOLE.width, PINHOLE.height), (index, 90, 90)).save(places[0] / f"DSC_{index:04d}.JPG")
        depth.astype("<f4").tofile(places[1] / f"DSC_{index:04d}.JPG")
    return folder
