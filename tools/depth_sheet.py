"""Draw what quantization does to depth: input, ground truth, a model's depth, an engine's depth, their difference.

python tools/depth_sheet.py --model tiny --engine outputs/demo/tiny-w4a4.onnx --root outputs/demo/scenes -o sheet.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from contact_sheet import Row, Sheet, draw_contact_sheet

from qvggt.cli.common import run
from qvggt.data.co3d import read_sequences
from qvggt.data.registry import Question
from qvggt.data.sequence import Sequence as PosedSequence
from qvggt.engines.runner import Array, Runner
from qvggt.errors import QvggtError
from qvggt.eval.depth import depth_errors
from qvggt.eval.ground_truth import plan_images, sequence_depth

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def depth_sheet(
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
    from qvggt.engines.opening import open_runner

    question = Question(root, frames=frames, min_frames=frames, seed=seed, annotations=annotations)
    chosen = read_sequences(question).sequences[:sequences]
    with open_runner(model) as reference, open_runner(engine) as other:
        rows = depth_rows(reference, other, chosen, shown)
        sheet = Sheet(
            title="Predicted depth before and after quantization",
            columns=("ground truth", heading(reference), heading(other)),
            rows=rows,
            compared=(1, 2),
            caption="Depth in the units of the reference; ground truth scaled to it by the median of each sequence. "
            "The depth maps of a row share one colour scale.",
        )
    draw_contact_sheet(sheet, output)
    typer.echo(f"wrote {output}")


def depth_rows(
    reference: Runner, other: Runner, sequences: Sequence[PosedSequence], shown: int, size: int | None = None
) -> tuple[Row, ...]:
    """Rows with the depth maps (ground truth, reference, other) of the first `shown` frames of each sequence.

    Both run on all frames of the sequence; `size` as in `plan_images`. Ground truth [S, H, W] is divided by the median
    ratio that `depth_errors` finds for the reference, so that all maps of a row have its unit; NaN where there is none.
    QvggtError when a candidate has no depth output, or as `plan_images` and the runners raise it.
    """
    for runner in (reference, other):
        if "depth" not in runner.outputs:
            raise QvggtError(
                f"{runner.label}: computes no depth, only {', '.join(runner.outputs)}; export it with depth"
            )
    plan = plan_images((reference, other), size)
    rows: list[Row] = []
    for sequence in sequences:
        images, resizes = plan.load(sequence.image_paths)
        first, second = reference(images).depth, other(images).depth
        assert first is not None
        assert second is not None
        truth = _in_units_of(first, sequence_depth(sequence, resizes, *images.shape[2:]))
        rows += [
            Row(
                label=f"{sequence.name}\nframe {sequence.frame_indices[index]}",
                image=images[index].transpose(1, 2, 0),
                depths=(truth[index], first[index], second[index]),
            )
            for index in range(min(shown, len(images)))
        ]
    return tuple(rows)


def _in_units_of(predicted: Array, truth: Array | None) -> Array:
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


if __name__ == "__main__":
    run(app)
