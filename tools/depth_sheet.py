"""Draw what quantization does to depth: input, ground truth, a model's depth, an engine's depth, their difference.

python tools/depth_sheet.py --model tiny --engine outputs/demo/tiny-w4a4.onnx --root outputs/demo/scenes -o sheet.png
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from reporting import start

from qvggt.data.co3d import read_sequences
from qvggt.data.registry import Question
from qvggt.data.sequence import Sequence as PosedSequence
from qvggt.engines.opening import open_runner
from qvggt.engines.runner import Array, Runner
from qvggt.errors import QvggtError
from qvggt.eval.depth import depth_errors
from qvggt.eval.ground_truth import plan_images, sequence_depth
from qvggt.pictures import DEPTH_COLOURS, save, shared_range, show_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 1.6  # inches, width of one picture
TITLE = "Predicted depth before and after quantization"
CAPTION = (
    "Depth in the units of the reference; ground truth scaled to it by the median of each sequence. "
    "The depth maps of a row share one colour scale."
)


@dataclass(frozen=True)
class Row:
    """One image with its depth maps. image: [H, W, 3] in [0, 1]; depths: [H, W] each, in one unit; NaN: no depth."""

    label: str
    image: Array
    depths: tuple[Array, ...]


def depth_rows(reference: Runner, other: Runner, sequences: Sequence[PosedSequence], shown: int) -> tuple[Row, ...]:
    """Rows with the depth maps (ground truth, reference, other) of the first `shown` frames of each sequence.

    Both run on all frames of the sequence. Ground truth [S, H, W] is divided by the median ratio that `depth_errors`
    finds for the reference, so that all maps of a row have its unit; NaN where there is none. QvggtError when a
    candidate has no depth output, or as `plan_images` and the runners raise it.
    """
    for runner in (reference, other):
        if "depth" not in runner.outputs:
            raise QvggtError(
                f"{runner.label}: computes no depth, only {', '.join(runner.outputs)}; export it with depth"
            )
    plan = plan_images((reference, other), None)
    rows: list[Row] = []
    for sequence in sequences:
        images, resizes = plan.load(sequence.image_paths)
        first, second = reference(images).depth, other(images).depth
        assert first is not None
        assert second is not None
        truth = in_units_of(first, sequence_depth(sequence, resizes, *images.shape[2:]))
        for name, *maps in list(zip(sequence.frame_indices, images, truth, first, second, strict=True))[:shown]:
            rows.append(Row(f"{sequence.name}\nframe {name}", maps[0].transpose(1, 2, 0), tuple(maps[1:])))
    return tuple(rows)


def in_units_of(predicted: Array, truth: Array | None) -> Array:
    """Ground truth scaled to the prediction, NaN where there is none."""
    if truth is None or not (truth > 0).any():
        return np.full_like(predicted, np.nan)
    scale = depth_errors(predicted, truth).scale  # NaN for a prediction without a positive median
    return np.where(truth > 0, truth / scale, np.nan).astype(np.float32)


def heading(runner: Runner) -> str:
    """Two short lines for a column: the scheme, and what runs it (labels hold file names, which are too wide)."""
    facts = runner.describe()
    kind = {"pytorch": "PyTorch", "onnxruntime": "ONNX Runtime"}.get(str(facts["kind"]), str(facts["kind"]))
    return f"{facts['scheme']}\n{kind}"


def relative_difference(reference: Array, other: Array) -> Array:
    """|other - reference| / |reference| in percent; NaN where either has no finite depth or the reference is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = 100 * np.abs(np.subtract(other, reference, dtype=np.float64)) / np.abs(reference)
    return np.where(np.isfinite(difference), difference, np.nan)


def draw(rows: Sequence[Row], columns: Sequence[str]) -> Figure:
    """A row of pictures per `Row`: image, depth maps under the titles `columns`, difference of the last two.

    The depth maps of a row share one colour scale (percentiles 1 to 99 of the row), so equal colours are equal depths;
    the differences of all rows share another one. What is not finite is grey.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    errors = [relative_difference(*row.depths[-2:]) for row in rows]
    worst = shared_range(errors)[1]
    titles = ("input", *columns, "relative difference")
    tall = PANEL * rows[0].image.shape[0] / rows[0].image.shape[1] + 0.25
    with rc_context({"font.size": 8, "axes.titlesize": 9}):
        figure = Figure((PANEL * len(titles) + 3.3, tall * len(rows) + 0.9), dpi=150, layout="compressed")
        panels = figure.subplots(len(rows), len(titles), squeeze=False, subplot_kw={"xticks": [], "yticks": []})
        for row, axes, error in zip(rows, panels, errors, strict=True):
            show_map(axes[0], row.image, "", 0, 1)
            axes[0].set_ylabel(row.label, rotation=0, ha="right", va="center", labelpad=6)
            low, high = shared_range(row.depths)
            for axis, depth in zip(axes[1:-1], row.depths, strict=True):
                shown = show_map(axis, depth, DEPTH_COLOURS, low, high)
            figure.colorbar(shown, ax=axes[1:-1], pad=0.02, aspect=14, label="depth")
            shown = show_map(axes[-1], error, "inferno", 0, worst)
            axes[-1].set_xlabel(
                f"mean {np.nanmean(error):.2g} %" if np.isfinite(error).any() else "no depth", labelpad=2
            )
        for axis, title in zip(panels[0], titles, strict=True):
            axis.set_title(title)
        figure.colorbar(shown, ax=panels[:, -1], extend="max", extendfrac=0.02, aspect=14 * len(rows), label="%")
        figure.suptitle(TITLE, fontsize=12, weight="bold")
        figure.supxlabel(CAPTION, fontsize=8, color="#444444")
    return figure


def main(
    model: Annotated[str, typer.Option(help="Reference: tiny, a weights file, a Hub id or a calibrated checkpoint.")],
    engine: Annotated[str, typer.Option(help="Compared with it: an exported .onnx, or any model.")],
    root: Annotated[Path, typer.Option(help="Co3D-format folder with depth maps.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG to write.")],
    annotations: Annotated[Path | None, typer.Option(help="Folder of the .jgz files. [ROOT/annotations]")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames per sequence, drawn as qvggt-eval draws them.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the frames drawn.")] = 0,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences to show, the first of the test split.")] = 3,
    shown: Annotated[int, typer.Option(min=1, help="Frames to show of each sequence.")] = 2,
) -> None:
    """One row per frame. Both candidates get the same images, all frames of a sequence at once."""
    question = Question(root, frames=frames, min_frames=frames, seed=seed, annotations=annotations)
    chosen = read_sequences(question).sequences[:sequences]
    with open_runner(model) as reference, open_runner(engine) as other:
        rows = depth_rows(reference, other, chosen, shown)
        columns = ("ground truth", heading(reference), heading(other))
    save(draw(rows, columns), output)
    typer.echo(f"wrote {output}")


if __name__ == "__main__":
    start(main)
