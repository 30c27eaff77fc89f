"""qvggt-scenes: generated multi-view scenes in Co3Dv2 layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qvggt.cli.common import run
from qvggt.errors import QvggtError

app = typer.Typer(add_completion=False, rich_markup_mode=None)
TEST_SEED = 20_000_000  # default seeds: training, held-out and demo scenes of the tiny model never meet
TRAIN_SEED = 30_000_000


@app.command(epilog="Example: qvggt-scenes outputs/scenes --train 16 --test 32 --size 70x70")
def scenes(
    output: Annotated[Path, typer.Argument(help="Co3D root to write; annotations go into OUTPUT/annotations.")],
    train: Annotated[int, typer.Option(min=0, help="Training sequences.")] = 16,
    test: Annotated[int, typer.Option(min=0, help="Test sequences.")] = 32,
    frames: Annotated[int, typer.Option(min=1, help="Frames per sequence.")] = 8,
    size: Annotated[str, typer.Option(help="HxW of the images in pixels.")] = "70x70",
    family: Annotated[
        str, typer.Option(help="random: nothing shared between scenes. room: one fixed room.")
    ] = "random",
    category: Annotated[str, typer.Option(help="Category name of the sequences.")] = "synthetic",
    train_seed: Annotated[int, typer.Option(min=0, help="Seed of the first training scene.")] = TRAIN_SEED,
    test_seed: Annotated[int, typer.Option(min=0, help="Seed of the first test scene.")] = TEST_SEED,
    workers: Annotated[int, typer.Option(min=1, help="Rendering processes.")] = 2,
) -> None:
    """Ray-cast scenes with exact cameras and depth, written as a real Co3Dv2 data set. One scene per seed."""
    from qvggt.eval.co3d_writer import write_co3d
    from qvggt.eval.synthetic.scene import SceneConfig

    parts = size.lower().split("x")
    if len(parts) != 2 or not all(p.isdigit() for p in parts):
        raise QvggtError(f"--size {size!r}: expected HxW in pixels, e.g. 70x70")
    config = SceneConfig(height=int(parts[0]), width=int(parts[1]), family=family, frames=frames)  # type: ignore[arg-type]
    written = write_co3d(
        output,
        config,
        range(train_seed, train_seed + train),
        range(test_seed, test_seed + test),
        category=category,
        workers=workers,
    )
    typer.echo(f"{written.root}/{category}: {written.rendered} sequences rendered, {written.reused} already there")


def main() -> None:
    run(app)
