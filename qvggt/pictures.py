"""Pictures of predictions: depth and confidence maps, and the cameras with what they see, from above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.files import atomic_write
from qvggt.geometry import decode_pose, invert_extrinsics, to_homogeneous, unproject
from qvggt.predictions import CAMERAS, Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

Array = NDArray[np.floating[Any]]

DEPTH_COLOURS, CONFIDENCE_COLOURS, UNKNOWN = "viridis_r", "cividis", "#c8c8c8"
FRAMES = 6  # most frames whose maps are shown
PANEL = 1.7  # inches, width of one map
BAR = 0.06  # width of a colour bar, in panels
SIDE = 4.6  # inches, least side of the view from above
POINTS = 20_000  # most points in it


def draw(predictions: Predictions, images: Any = None, path: str | Path | None = None) -> Figure:
    """See `Predictions.plot`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            """A notebook shows the picture, with or without pyplot."""
            from io import BytesIO

            self.savefig(buffer := BytesIO(), format="png")
            return buffer.getvalue()

    pictures, depth, confidence = _pictures(predictions, images), predictions.depth, predictions.depth_conf
    if confidence is None:
        confidence = predictions.world_points_conf
    rows: list[tuple[str, Array, str]] = []  # name, maps, colours; images need none
    if pictures is not None:
        rows.append(("image", pictures, ""))
    if depth is not None:
        rows.append(("depth", depth, DEPTH_COLOURS))
    if confidence is not None:
        rows.append(("confidence", confidence, CONFIDENCE_COLOURS))
    total = len(predictions.pose_enc)
    shown = np.unique(np.linspace(0, total - 1, min(total, FRAMES)).round().astype(int)) if rows else np.arange(0)
    height, width = rows[0][1].shape[1:3] if rows else (1, 1)
    sides = [PANEL * len(shown) + 1.2, SIDE + 0.6] if rows else [SIDE + 0.6]
    tall = max(SIDE, (PANEL * min(height / width, 2) + 0.15) * len(rows) + 0.3)
    with rc_context({"font.size": 8, "axes.titlesize": 9}):
        figure = Picture((sum(sides), tall), dpi=130, layout="constrained")
        halves: Any = figure.subfigures(1, len(sides), squeeze=False, width_ratios=sides)[0]
        if rows:
            _maps(halves[0], rows, shown, total)
        _from_above(halves[-1].subplots(), predictions, pictures, confidence)
    if path is not None:
        save(figure, Path(path))
    return figure


def _maps(figure: SubFigure, rows: Sequence[tuple[str, Array, str]], shown: NDArray[Any], total: int) -> None:
    """A column per frame; the maps of a row share one colour scale."""
    height, width = rows[0][1].shape[1:3]
    ratios = [*[1.0] * len(shown), BAR]
    panels = figure.subplots(len(rows), len(ratios), squeeze=False, width_ratios=ratios)
    for (*axes, bar), (name, maps, colours) in zip(panels, rows, strict=True):
        axes[0].set_ylabel(name)
        bar.set_axis_off()
        low, high = shared_range([maps[frame] for frame in shown])
        for axis, frame in zip(axes, shown, strict=True):
            axis.set(xticks=[], yticks=[])
            drawn = show_map(axis, maps[frame], colours, low, high)
        if colours:
            bar.set_axis_on()
            bar.set_box_aspect(height / width / BAR)
            figure.colorbar(drawn, cax=bar)
    for axis, frame in zip(panels[0], shown, strict=False):
        axis.set_title(f"frame {frame}", color=_colour(frame, total))
    if len(shown) < total:
        figure.supxlabel(f"{len(shown)} of {total} frames are shown", color="#444444", fontsize=8)


def show_map(axis: Axes, values: Array, colours: str, low: float, high: float) -> AxesImage:
    """A map [H, W] in a colour map's colours from `low` to `high`; grey where it is not finite. Without colours: an RGB
    image [H, W, 3] as it is."""
    from matplotlib import colormaps

    if not colours:
        return axis.imshow(np.clip(values, 0, 1))
    scale = colormaps[colours].with_extremes(bad=UNKNOWN)
    return axis.imshow(np.ma.masked_invalid(values), cmap=scale, vmin=low, vmax=high)


def shared_range(maps: Sequence[Array]) -> tuple[float, float]:
    """Percentiles 1 and 99 of all finite values together; (0, 1) without any, never an empty range."""
    values = np.concatenate([m[np.isfinite(m)] for m in maps])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, [1, 99]))
    return (low, high) if high > low else (low, low + max(abs(low), 1.0) * 1e-3)


def save(figure: Figure, path: Path) -> None:
    """As its suffix says (PNG without one), atomically; equal figures give equal PNG files. QvggtError when `path`
    cannot be written or its suffix is of no picture."""
    kind, known = path.suffix[1:].lower() or "png", figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise QvggtError(f"{path}: expected a name that ends in .{', .'.join(known)}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=kind, metadata={"Software": "qvggt"} if kind == "png" else None)


def _pictures(predictions: Predictions, images: Any) -> NDArray[np.float32] | None:
    """images [S, 3, H, W] as [S, H, W, 3]; QvggtError when they are not the images of the predictions."""
    if images is None:
        return None
    values = np.asarray(images.detach().cpu() if isinstance(images, torch.Tensor) else images, np.float32)
    maps = [a.shape[1:3] for name, a in predictions.named().items() if name != CAMERAS]
    expected = (len(predictions.pose_enc), 3, *(maps[0] if maps else values.shape[2:]))
    if values.ndim != 4 or values.shape != expected:
        wanted = ", ".join(map(str, expected if len(expected) == 4 else (*expected[:2], "H", "W")))
        raise QvggtError(f"images: expected [{wanted}] as the predictions, got {list(values.shape)}")
    return values.transpose(0, 2, 3, 1)


def _colour(frame: int, total: int) -> tuple[float, ...]:
    from matplotlib import colormaps

    return tuple(colormaps["plasma"](0.85 * frame / max(total - 1, 1)))


def _from_above(axis: Axes, predictions: Predictions, pictures: Array | None, confidence: Array | None) -> None:
    """Camera centres, their horizontal fields of view, and the points they see: x to the right, z (forward) upwards, in
    the frame of the first camera."""
    from matplotlib import colormaps

    encoding = torch.from_numpy(predictions.pose_enc).double()
    total, maps = len(encoding), predictions.depth
    height, width = (1, 1) if maps is None else maps.shape[1:]
    extrinsics, intrinsics = decode_pose(encoding, height, width)
    extrinsics = to_homogeneous(extrinsics) @ invert_extrinsics(to_homogeneous(extrinsics[:1]))
    poses = invert_extrinsics(extrinsics).numpy()
    finite = np.isfinite(poses).all((1, 2))
    centres = poses[:, [0, 2], 3]
    seen = [centres[finite]]
    if maps is not None:
        depth = torch.from_numpy(maps).double()
        points = unproject(depth, extrinsics[:, :3], intrinsics).numpy()[..., [0, 2]]
        usable = np.isfinite(points).all(-1) & (maps > 0)
        if confidence is not None and usable.any():
            usable &= confidence >= np.median(confidence[usable])
        chosen = np.flatnonzero(usable)
        chosen = chosen[:: max(1, -(-len(chosen) // POINTS))]
        points = points.reshape(-1, 2)[chosen]
        low, high = shared_range([maps])
        shade = colormaps[DEPTH_COLOURS]((maps.reshape(-1)[chosen] - low) / (high - low))
        if pictures is not None:
            shade = np.clip(pictures.reshape(-1, 3)[chosen], 0, 1)
        axis.scatter(points[:, 0], points[:, 1], s=1.5, c=shade, alpha=0.6, linewidths=0, rasterized=True)
        if len(points):
            seen.append(np.percentile(points, [10, 90], axis=0))
    corners = np.concatenate(seen)
    middle, half = np.zeros(2), 1.0
    if len(corners):
        middle = (corners.min(0) + corners.max(0)) / 2
        half = 0.6 * float((corners.max(0) - corners.min(0)).max()) or 1.0
    spread = float(np.ptp(centres[finite], axis=0).max()) if finite.any() else 0.0
    reach = half * 0.15 if spread == 0 else min(half * 0.15, max(half * 0.05, spread * 0.4))
    for frame in np.flatnonzero(finite).tolist():
        slope = np.tan(np.clip(float(encoding[frame, 8]), 0.0, 3.0) / 2)
        edge = np.array([[-slope, 0, 1], [slope, 0, 1]]) * (reach / max(1.0, slope))
        wedge = np.stack([centres[frame], *(edge @ poses[frame, :3, :3].T)[:, [0, 2]] + centres[frame]])
        colour = _colour(frame, total)
        axis.fill(*wedge.T, facecolor=(*colour[:3], 0.25), edgecolor=colour, linewidth=1.1)
        axis.plot(*centres[frame], "o", color=colour, markersize=3.5)
        if total <= 2 * FRAMES:
            axis.annotate(
                str(frame), centres[frame], (0, -5), textcoords="offset points", ha="center", va="top", color=colour
            )
    axis.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect="equal")
    axis.set(xlabel="x: right of frame 0 (scene units)", ylabel="z: ahead of frame 0", title="cameras from above")
    axis.grid(linewidth=0.4, color="#dddddd")
    axis.set_axisbelow(True)
    if not finite.all():
        axis.text(0.5, 0.02, f"{total - finite.sum()} of {total} cameras are not finite", transform=axis.transAxes,
                  ha="center", color="#b00020")  # fmt: skip
