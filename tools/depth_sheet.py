"""Draw what quantization does to depth: input, ground truth, a model's depth, an engine's depth, their difference.

python tools/depth_sheet.py --model tiny --engine outputs/demo/tiny-w4a4.onnx --root outputs/demo/scenes -o sheet.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qvggt.cli.common import run

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
    from qvggt.cli.images import ANNOTATIONS
    from qvggt.data.co3d import Co3DConfig, read_sequences
    from qvggt.engines.opening import open_runner
    from qvggt.eval.contact_sheet import Sheet, draw_contact_sheet
    from qvggt.eval.depth_sheet import depth_rows, heading

    place = annotations or root / ANNOTATIONS
    config = Co3DConfig(str(root), str(place), frames=frames, min_frames=frames, seed=seed)
    chosen = read_sequences(config).sequences[:sequences]
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


if __name__ == "__main__":
    run(app)
