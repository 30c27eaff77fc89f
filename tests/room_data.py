"""Generated scenes in the exact layouts of 7-Scenes and Neural RGBD, and how far points lie from a scene's surfaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from qvggt.data.synthetic.render import Views, render
from qvggt.data.synthetic.scene import Scene, SceneConfig, sample_scene

WIDTH, HEIGHT = 640, 480


def room(focal: float, frames: int, seed: int) -> tuple[Scene, Views]:
    """A scene seen by 640x480 cameras of that focal length, all within the 10 m the depth format holds."""
    fov = 2 * np.degrees(np.arctan(WIDTH / 2 / focal))
    config = SceneConfig(height=HEIGHT, width=WIDTH, frames=frames, fov=(fov, fov), dome_radius=5.5, objects=(2, 2))
    scene = sample_scene(config, seed)
    return scene, render(scene, config)


def millimetres(depth) -> np.ndarray:
    return np.rint(1000 * depth.astype(np.float64)).astype(np.uint16)


def world_from_camera(extrinsics) -> np.ndarray:
    return np.linalg.inv(np.concatenate([extrinsics, np.tile([[[0, 0, 0, 1.0]]], (len(extrinsics), 1, 1))], 1))


def write_seven_scenes(root: Path, scene: str, number: int, views: Views, kinds=("proj", "raw")) -> Path:
    """ROOT/<scene>/seq-XX with every frame; TestSplit.txt gains the line of the sequence."""
    folder = root / scene / f"seq-{number:02d}"
    folder.mkdir(parents=True)
    with open(root / scene / "TestSplit.txt", "a", encoding="utf-8") as file:
        file.write(f"sequence{number}\n")
    poses = world_from_camera(views.extrinsics)
    for i, (image, depth, pose) in enumerate(zip(views.images, views.depth, poses, strict=True)):
        stem = folder / f"frame-{i:06d}"
        Image.fromarray(image).save(f"{stem}.color.png", compress_level=1)
        stored = millimetres(depth)
        if "proj" in kinds:
            Image.fromarray(stored).save(f"{stem}.depth.proj.png", compress_level=1)
        if "raw" in kinds:  # the raw map of this data says "nothing measured" on its left half
            raw = stored.copy()
            raw[:, : WIDTH // 2] = 65535
            Image.fromarray(raw).save(f"{stem}.depth.png", compress_level=1)
        Path(f"{stem}.pose.txt").write_text("\n".join("\t".join(f"{x:.9e}" for x in row) for row in pose) + "\n")
    return folder


def write_nrgbd(root: Path, scene: str, views: Views, lost: tuple[int, ...] = ()) -> Path:
    """ROOT/<scene>/{images,depth,poses.txt}; poses with OpenGL axes, those of `lost` frames nan."""
    folder = root / scene
    (folder / "images").mkdir(parents=True)
    (folder / "depth").mkdir()
    opengl = world_from_camera(views.extrinsics)
    opengl[:, :, 1:3] *= -1
    lines = []
    for i, (image, depth) in enumerate(zip(views.images, views.depth, strict=True)):
        Image.fromarray(image).save(folder / "images" / f"img{i}.png", compress_level=1)
        Image.fromarray(millimetres(depth)).save(folder / "depth" / f"depth{i}.png", compress_level=1)
        lines += [" ".join("nan" if i in lost else repr(float(x)) for x in row) for row in opengl[i]]
    (folder / "poses.txt").write_text("\n".join(lines) + "\n")
    return folder


def surface_distance(scene: Scene, points) -> np.ndarray:
    """Distance of world points [N, 3] to the nearest surface of the scene, [N]."""
    gaps = [np.abs(points[:, 2]), np.abs(np.linalg.norm(points, axis=1) - scene.dome_radius)]
    for is_box, centre, half, yaw in zip(scene.is_box, scene.centres, scene.half, scene.yaw, strict=True):
        local = points - centre
        if not is_box:
            gaps.append(np.abs(np.linalg.norm(local, axis=1) - half[0]))
            continue
        cos, sin = np.cos(yaw), np.sin(yaw)
        local = local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]).T
        outside = np.abs(local) - half
        gaps.append(np.abs(np.linalg.norm(outside.clip(0), axis=1) + outside.max(1).clip(max=0)))
    return np.min(gaps, axis=0)
