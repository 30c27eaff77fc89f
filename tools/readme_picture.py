"""The picture at the top of README.md: what the float file and the quantized ones make of the same images.

    python tools/readme_picture.py outputs/demo       # a folder of `qvggt deploy tiny`; writes docs/picture.png

Every figure in it is one of that deployment's results.json. The scene has the median float AUC@30 of all that were
evaluated, so it is neither the best nor the worst; `--scene NAME` takes another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from reporting import start

import qvggt
from qvggt.data.image_file import read_rgb
from qvggt.data.registry import Question, recognise
from qvggt.errors import QvggtError
from qvggt.eval.result import file_bytes
from qvggt.files import atomic_write, read_object
from qvggt.geometry import decode_pose, to_homogeneous, unproject

Array = NDArray[np.float64]

CARD, INK, FAINT, TRUTH = "#101827", "#f1f5f9", "#94a3b8", "#f8fafc"  # its own ground: right on light and dark pages
HUES = ("#38bdf8", "#34d399", "#fbbf24", "#f472b6", "#a78bfa", "#fb7185")  # one a camera
INCHES, DPI = (13.2, 4.2), 120
FINER = 3  # maps and images are interpolated, so that near surfaces are closed
EDGE = 0.08  # relative step of depth between neighbours that is an edge; nothing is drawn there
FAR = 1.35  # times the median depth: what lies behind is not drawn
YAW, BACK, HIGH = -24, 1.9, 1.25  # where the eye is, degrees and distances between the cameras and the scene
PYRAMID = 0.17  # length of a drawn camera, of the median depth


@dataclass(frozen=True)
class View:
    """One panel: predicted cameras and points in the unit and frame of the true ones."""

    title: str
    facts: str
    centres: Array  # [S, 3]
    corners: Array  # [S, 4, 3], of a pyramid a camera
    points: Array  # [N, 3]
    colours: Array  # [N, 3]


def pyramids(extrinsics: Array, intrinsics: Array, side: int, depth: float) -> tuple[Array, Array]:
    """Camera centres [S, 3] and the corners [S, 4, 3] of what they see at a depth."""
    back = np.linalg.inv(np.concatenate([extrinsics, np.tile([[[0.0, 0, 0, 1]]], (len(extrinsics), 1, 1))], 1))
    pixels = np.array([[0, 0, 1], [side, 0, 1], [side, side, 1], [0, side, 1]], float)
    rays = np.einsum("sij,kj->ski", np.linalg.inv(intrinsics), pixels) * depth
    return back[:, :3, 3], np.einsum("sij,skj->ski", back[:, :3, :3], rays) + back[:, None, :3, 3]


def relative(extrinsics: Array) -> Array:
    """In the frame of the first camera."""
    whole = to_homogeneous(torch.tensor(extrinsics))
    moved: Array = (whole @ torch.linalg.inv(whole[:1])).numpy()[:, :3]
    return moved


def finer(maps: Any) -> NDArray[Any]:
    """[S, C, H, W], FINER times as many rows and columns."""
    values = torch.as_tensor(maps).float()
    return torch.nn.functional.interpolate(values, scale_factor=FINER, mode="bilinear").numpy()


def predicted(runner: Any, images: torch.Tensor, true_depth: Array, names: tuple[str, str]) -> View:
    found = runner(images.numpy())
    side = images.shape[-1]
    extrinsics, intrinsics = decode_pose(torch.tensor(found.pose_enc[None]).double(), side, side)
    extrinsics, depth = torch.tensor(relative(extrinsics[0].numpy())), found.depth
    known = true_depth > 0
    scale = float(np.median(true_depth[known]) / np.median(depth[known]))
    middle = float(np.median(true_depth[known]))
    step = np.maximum(*(np.abs(np.gradient(depth, axis=axis)) for axis in (1, 2))) / depth
    depth, step = finer(depth[:, None])[:, 0], finer(step[:, None])[:, 0]
    finer_intrinsics = intrinsics[0] * torch.tensor([FINER, FINER, 1.0])[:, None]
    points = unproject(torch.tensor(depth).double(), extrinsics, finer_intrinsics).numpy() * scale
    kept = (step < EDGE) & (depth * scale < FAR * middle)
    moved = extrinsics.numpy().copy()
    moved[:, :, 3] *= scale
    centres, corners = pyramids(moved, intrinsics[0].numpy(), side, PYRAMID * middle)
    colours = finer(images.numpy()).transpose(0, 2, 3, 1).clip(0, 1)
    return View(*names, centres, corners, points[kept], colours[kept])


def draw_view(axes: Any, view: View, truth: tuple[Array, Array], look: tuple[Array, Array]) -> None:
    """The points far to near, true cameras as white lines, predicted ones filled."""
    turn, eye = look

    def flat(points: Array) -> Array:
        seen = (points - eye) @ turn.T
        return np.concatenate([seen[..., :2] / seen[..., 2:], seen[..., 2:]], -1)

    points = flat(view.points)
    order = np.argsort(-points[:, 2])
    near = float(np.median(points[:, 2]))
    axes.scatter(
        *points[order, :2].T, c=view.colours[order], s=2.4 * (near / points[order, 2]) ** 2, linewidths=0, marker="o"
    )
    for (centres, corners), filled in ((truth, False), ((view.centres, view.corners), True)):
        for index, (centre, corner) in enumerate(zip(centres, corners, strict=True)):
            tip, base = flat(centre)[:2], flat(corner)[:, :2]
            hue = HUES[index % len(HUES)] if filled else TRUTH
            if filled:
                axes.fill(*base.T, color=hue, alpha=0.45, lw=0)
            for a, b in [*((tip, one) for one in base), *zip(base, np.roll(base, 1, 0), strict=True)]:
                axes.plot(*np.stack([a, b]).T, color=hue, lw=1.5 if filled else 1.0, ls="-" if filled else (0, (3, 2)))


def looking(truth: tuple[Array, Array], points: Array) -> tuple[Array, Array]:
    """Rotation and place of the eye: behind the cameras, above them and to the side."""
    target, middle = np.median(points, 0), truth[0].mean(0)
    away = middle - target
    yaw, up = np.deg2rad(YAW), np.array([0.0, -1, 0])
    flat = away - up * (away @ up)
    side = np.cross(up, flat)
    eye = target + BACK * (np.cos(yaw) * flat + np.sin(yaw) * side) + up * HIGH * np.linalg.norm(away)
    centre = 0.6 * target + 0.4 * middle
    forward = (centre - eye) / np.linalg.norm(centre - eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward]), eye


def picture(views: list[View], images: torch.Tensor, truth: tuple[Array, Array], below: str, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(INCHES, dpi=DPI)
    figure.patch.set_alpha(0)
    card = FancyBboxPatch((0, 0), 1, 1, boxstyle="round,pad=0,rounding_size=0.015", fc=CARD, lw=0, zorder=-1)
    figure.add_artist(card)
    columns = figure.add_gridspec(1, len(views) + 1, width_ratios=[0.86, *[1] * len(views)])
    columns.update(left=0.015, right=0.995, top=0.82, bottom=0.085, wspace=0.04)
    rows = columns[0].subgridspec(2, 2, wspace=0.06, hspace=0.06)
    for index, image in enumerate(images[:4]):
        axes = figure.add_subplot(rows[index])
        axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="bicubic")
        axes.set(xticks=[], yticks=[])
        for edge in axes.spines.values():
            edge.set(color=HUES[index], linewidth=2.5)
    look = looking(truth, views[0].points)
    panels = [figure.add_subplot(columns[1 + index], facecolor="none") for index in range(len(views))]
    for axes, view in zip(panels, views, strict=True):
        draw_view(axes, view, truth, look)
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.set_frame_on(False)
    (low_x, high_x), (low_y, high_y) = panels[0].get_xlim(), panels[0].get_ylim()
    for axes in panels:
        axes.set(xlim=(low_x, high_x), ylim=(high_y, low_y))
    heads = [("images", f"{len(images)} views"), *((view.title, view.facts) for view in views)]
    for index, (head, facts) in enumerate(heads):
        box = columns[index].get_position(figure)
        middle = (box.x0 + box.x1) / 2
        figure.text(middle, 0.905, head, color=INK, fontsize=16, fontweight="bold", ha="center")
        figure.text(middle, 0.845, facts, color=FAINT, fontsize=11, ha="center")
    figure.text(0.5, 0.025, below, color=FAINT, fontsize=10, ha="center")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="none")


def main(
    folder: Annotated[Path, typer.Argument(help="A folder of `qvggt deploy`, run from this place.")],
    output: Annotated[Path, typer.Option("-o", help="PNG to write.")] = Path("docs/picture.png"),
    scene: Annotated[str | None, typer.Option(help="Name of the scene. [median AUC@30 of the float model]")] = None,
) -> None:
    """Draw it."""
    report = read_object(folder / "results.json", "the report of a deployment")
    files = [c for c in report["candidates"] if file_bytes(c) is not None]
    if not files or files[0]["scheme"] != "fp32":
        raise QvggtError(f"{folder}: holds no float file; deploy without --no-float-file")
    ranked = sorted(files[0]["sequences"], key=lambda s: (s["metrics"]["auc30"], s["sequence"]))
    key = ranked[len(ranked) // 2]["sequence"] if scene is None else f"synthetic/{scene}"
    config = report["config"]
    question = Question(Path(config["root"]), frames=config["frames"], min_frames=config["min_frames"])
    sequence = next(s for s in recognise(question, "co3d").answer(question) if s.key == key)
    assert list(sequence.frame_indices) == report["frame_list"]["frames"][key]
    images = qvggt.load_images(sequence.image_paths, size=files[0]["size"][0])
    depth = np.stack([sequence.depth_reader(path) for path in sequence.depth_paths])
    extrinsics = relative(sequence.extrinsics)
    side = read_rgb(sequence.image_paths[0]).width
    truth = pyramids(extrinsics, sequence.intrinsics, side, PYRAMID * float(np.median(depth[depth > 0])))
    views = []
    for candidate in files:
        size = file_bytes(candidate)
        title = "float" if candidate["scheme"] == "fp32" else candidate["scheme"].removesuffix("-dynamic")
        facts = f"{(size or 0) / 1e6:.1f} MB   AUC@30 {candidate['auc']['30']:.1f}"
        with qvggt.open_runner(candidate["file"]) as runner:
            views.append(predicted(runner, images, depth, (title, facts)))
    below = (
        f"ONNX files in ONNX Runtime, tiny model, {sequence.name} (median of {len(ranked)} unseen scenes); "
        "white: true cameras, coloured: predicted"
    )
    picture(views, images, truth, below, output)
    print(f"wrote {output}: {key}")


if __name__ == "__main__":
    start(main)
