"""What a person looks at first: preview.png, points and cameras, and index.html, a page about the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.photos import Photo
from qvggt.eval.html.pictures import data_uri
from qvggt.eval.html.text import environment, megabytes
from qvggt.eval.reconstruction.cameras import field_of_view
from qvggt.eval.reconstruction.cloud import Cloud
from qvggt.eval.reconstruction.meshes import camera_colour, pyramid, pyramid_size

Array = NDArray[Any]

PREVIEW, PAGE = "preview.png", "index.html"
WIDTH, HEIGHT = 1200, 800
BACKGROUND = (24, 26, 30)
OPENS = {
    "scene.glb": "points and cameras: Blender, Windows 3D Viewer, any glTF viewer in a browser",
    "scene.rrd": "everything, to look into: rerun scene.rrd (pip install rerun-sdk)",
    "points.ply": "the points: MeshLab, CloudCompare, Blender",
    "images/": "the images, upright",
    "sparse/0/": "COLMAP model: COLMAP (import model), Gaussian splatting and NeRF tools (this folder as their scene)",
    "sparse_text/": "the same as text: any editor",
    "depth/": "depth maps: any picture viewer (16 bit PNG; scale in reconstruction.json), NumPy (.npz, exact)",
    "cameras.json": "cameras: any program that reads JSON; conventions are in the file",
    "tracks.npz": "tracked points: NumPy",
    PREVIEW: "this picture: any picture viewer",
}


def grouped(files: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """(name, files, bytes): the files of a folder (images, depth maps) together."""
    groups: dict[str, list[int]] = {}
    for name, size in files.items():
        groups.setdefault(name.rsplit("/", 1)[0] + "/" if "/" in name else name, []).append(size)
    return [(name, len(sizes), sum(sizes)) for name, sizes in groups.items()]


def preview(cloud: Cloud, extrinsics: Array, intrinsics: Array, size: tuple[int, int]) -> Array:
    """uint8 RGB [HEIGHT, WIDTH, 3]: the scene from above and behind its cameras, which are wire pyramids."""
    from PIL import Image, ImageDraw

    wires = [
        pyramid(e, k, size, 2 * pyramid_size(cloud, extrinsics)) for e, k in zip(extrinsics, intrinsics, strict=True)
    ]
    look, focal = _viewpoint(cloud, extrinsics, np.concatenate(wires).reshape(-1, 3))
    canvas = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    places, depth = _project(cloud.points.astype(np.float64), look, focal)
    far_first = np.argsort(-depth, kind="stable")
    far_first = far_first[depth[far_first] > 0]
    side = int(np.clip(np.sqrt(WIDTH * HEIGHT / max(1, len(cloud)) * 3), 2, 6))
    corner = places[far_first].astype(np.int64) - side // 2
    for y in range(side):  # of points at one place the nearest is painted last
        for x in range(side):
            at = corner + np.array([x, y])
            on = ((at >= 0) & (at < [WIDTH, HEIGHT])).all(1)
            canvas[at[on, 1], at[on, 0]] = cloud.colours[far_first[on]]
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for index, wire in enumerate(wires):
        ends, depth = _project(wire.reshape(-1, 3), look, focal)
        for (a, b), (near, far) in zip(ends.reshape(-1, 2, 2), depth.reshape(-1, 2), strict=True):
            if min(near, far) > 0:
                draw.line([*a, *b], fill=camera_colour(index, len(wires)), width=2)
    return np.asarray(image)


def _viewpoint(cloud: Cloud, extrinsics: Array, ends: Array) -> tuple[Array, float]:
    """World -> eye [3, 4] (OpenCV axes), and a focal length in pixels that shows most points and all pyramids."""
    rotations, centres = extrinsics[:, :, :3], -np.einsum("nji,nj->ni", extrinsics[:, :, :3], extrinsics[:, :, 3])
    some = cloud.points[:: max(1, len(cloud) // 20_000)].astype(np.float64)
    target = np.median(some, axis=0)
    down, behind = rotations[:, 1].mean(0), centres.mean(0) - target
    reach = float(np.linalg.norm(behind)) or 1.0
    eye = target + 1.5 * behind - 0.5 * reach * down / (np.linalg.norm(down) or 1.0)
    forward = (target - eye) / (np.linalg.norm(target - eye) or 1.0)
    right = np.cross(down, forward)
    right /= np.linalg.norm(right) or 1.0
    turn = np.stack([right, np.cross(forward, right), forward])
    look = np.concatenate([turn, -(turn @ eye)[:, None]], axis=1)
    wide = 0.0
    for points, share in ((some, 95), (ends, 100)):
        places, depth = _project(points, look, 1.0)
        off = np.abs(places[depth > 0] - [WIDTH / 2, HEIGHT / 2]) / [WIDTH / 2, HEIGHT / 2]
        wide = max(wide, float(np.percentile(off.max(1), share))) if len(off) else wide
    return look, 0.95 / wide if wide else 1.0


def _project(points: Array, look: Array, focal: float) -> tuple[Array, Array]:
    """Pixels [N, 2] and depths [N] of world points."""
    local = points @ look[:, :3].T + look[:, 3]
    with np.errstate(all="ignore"):
        places = np.nan_to_num(focal * local[:, :2] / local[:, 2:], nan=-1e6, posinf=1e6, neginf=-1e6)
    return np.clip(places, -1e6, 1e6) + np.array([WIDTH / 2, HEIGHT / 2]), local[:, 2]


def write_page(
    path: Path, facts: Mapping[str, Any], files: Mapping[str, int], cameras: Sequence[Mapping[str, Any]], picture: Array
) -> None:
    """A page that needs no other file. files: name -> bytes; cameras: of `camera_rows`."""
    rows = [(name, count, megabytes(size), OPENS.get(name, "")) for name, count, size in grouped(files)]
    from markupsafe import Markup

    template = environment("qvggt.eval.reconstruction").get_template("index.html.jinja")
    text = template.render(
        facts=facts, files=rows, cameras=cameras, picture=Markup(data_uri(picture, side=WIDTH)), options=_options(facts)
    )
    path.write_text(text, encoding="utf-8")


def camera_rows(photos: Sequence[Photo], pixels: Array, intrinsics: Array, extrinsics: Array) -> list[dict[str, Any]]:
    """What the page says of every camera. intrinsics: of the originals."""
    from markupsafe import Markup

    rows = []
    for index, (photo, k, e) in enumerate(zip(photos, intrinsics, extrinsics, strict=True)):
        rows.append(
            {
                "name": photo.name,
                "colour": "#{:02x}{:02x}{:02x}".format(*camera_colour(index, len(photos))),
                "picture": Markup(data_uri(np.ascontiguousarray(pixels[index].transpose(1, 2, 0)))),
                "size": f"{photo.width} x {photo.height}",
                "view": " x ".join(f"{angle:.1f}" for angle in field_of_view(k, photo.width, photo.height)),
                "centre": ", ".join(f"{value:.3f}" for value in np.round(-e[:, :3].T @ e[:, 3], 3) + 0.0),
            }
        )
    return rows


def _options(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as words: lists without brackets, nothing for what was not set."""
    rows = []
    for name, value in facts["options"].items():
        if value not in (None, (), [], False):
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((name.replace("_", " "), shown))
    return rows
