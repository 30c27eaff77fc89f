"""qvggt-scenes: generated multi-view scenes in Co3D format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from qvggt.cli.common import application
from qvggt.errors import QvggtError

app, main = application()

EPILOG = """
\b
Examples:
  qvggt-scenes outputs/scenes
  qvggt-scenes outputs/scenes --train 64 --test 256 --frames 8 --size 70
  qvggt-eval --model tiny --dataset co3d --root outputs/scenes --frames 8 --min-frames 8
"""


@app.command(epilog=EPILOG)
def scenes(
    out: Annotated[Path, Argument(help="Root to write: OUT/CATEGORY/..., annotations in OUT/annotations.")],
    category: Annotated[str, Option(help="Name of the category folder.")] = "synthetic",
    train: Annotated[int, Option(min=0, help="Training scenes.")] = 16,
    test: Annotated[int, Option(min=0, help="Test scenes, of other seeds than the training scenes.")] = 32,
    frames: Annotated[int, Option(min=1, help="Frames per scene.")] = 8,
    size: Annotated[str, Option(help="Image size in pixels: one side, or HxW.")] = "70",
    seed: Annotated[int, Option(min=0, help="Seed of the first scene; the others follow.")] = 0,
    family: Annotated[
        Literal["random", "room"],
        Option(help="random: nothing is shared between scenes. room: one room, which a model can learn."),
    ] = "random",
    workers: Annotated[int, Option(min=1, help="Processes that render.")] = 1,
) -> None:
    """Render textured objects on a ground plane with exact cameras and depth, in real Co3Dv2 layout.

    The same options give the same bytes. Repeating an interrupted call keeps the scenes that are finished.
    """
    from qvggt.data.co3d_writer import write_co3d
    from qvggt.data.synthetic.generator import ROOM, TEST_SEEDS, TRAIN_SEEDS
    from qvggt.data.synthetic.scene import SceneConfig

    height, width = _sides(size)
    if seed + max(train, test) > ROOM:
        raise QvggtError(f"--seed {seed}: expected seed + scenes <= {ROOM}, beyond are seeds of another split")
    try:
        written = write_co3d(
            out,
            SceneConfig(height=height, width=width, family=family, frames=frames),
            train=range(TRAIN_SEEDS + seed, TRAIN_SEEDS + seed + train),
            test=range(TEST_SEEDS + seed, TEST_SEEDS + seed + test),
            category=category,
            workers=workers,
        )
    except OSError as error:
        raise QvggtError(f"{out}: cannot be written ({error.strerror or error}); choose another place") from error
    typer.echo(
        f"{written.root}: {train} train + {test} test scenes of {frames} frames, {height}x{width} "
        f"({written.rendered} rendered, {written.reused} reused); annotations in {written.annotations}"
    )


def _sides(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(p.isdigit() and int(p) > 0 for p in parts):
        raise QvggtError(f"--size {text!r}: expected pixels, e.g. 70 or 56x70 (HxW)")
    return int(parts[0]), int(parts[-1])
