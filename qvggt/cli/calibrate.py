"""qvggt-calibrate: float checkpoint + images -> calibrated checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qvggt.cli.common import check_place, run
from qvggt.errors import QvggtError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: qvggt-calibrate tiny --bits w4a4 --act static --data outputs/scenes -o outputs/tiny-w4a4")
def calibrate(
    model: Annotated[
        str, typer.Argument(help="tiny, vggt-1b, a .safetensors/.pt file, a folder with one, or a Hub id.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint directory to write.")],
    bits: Annotated[str, typer.Option(help="w8a8, w4a8, w6a6, w4a4, w4a16, fp32, fp16 or bf16.")] = "w8a8",
    act: Annotated[
        str, typer.Option(help="dynamic: one scale per token. static: one per tensor, observed on --data.")
    ] = "dynamic",
    data: Annotated[Path | None, typer.Option(help="Co3D-format folder; needed by --act static.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="Folder of the .jgz files. [DATA/annotations]")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Training sequences to observe.")] = 16,
    frames: Annotated[int, typer.Option(min=1, help="Frames per sequence.")] = 4,
    size: Annotated[str | None, typer.Option(help="HxW of the images in pixels. [model's own]")] = None,
    parts: Annotated[str, typer.Option(help="Parts to quantize: dino, aggregator, camera.")] = "dino,aggregator",
    seed: Annotated[int, typer.Option(help="Seed of the frames drawn.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Hub revision (commit, tag or branch) to pin.")] = None,
    offline: Annotated[bool, typer.Option(help="Never use the network.")] = False,
    force: Annotated[bool, typer.Option(help="Replace an existing calibrated checkpoint.")] = False,
) -> None:
    """Quantize a checkpoint: round-to-nearest weights, min/max activation ranges for --act static."""
    from qvggt.calib.rtn import quantize_rtn_
    from qvggt.cli.images import co3d_images
    from qvggt.cli.source import load_source, parse_size
    from qvggt.cli.versions import versions
    from qvggt.quant.checkpoint import DESCRIPTION, Provenance, save_calibrated
    from qvggt.quant.scheme import parse_scheme

    scheme = parse_scheme(bits, act, [p for p in parts.split(",") if p])
    check_place(output)
    if output.exists() and any(output.iterdir() if output.is_dir() else [output]) and not force:
        raise QvggtError(f"{output}: exists already; choose another directory, or --force to replace a checkpoint")
    if scheme.needs_ranges and data is None:
        raise QvggtError("--act static needs --data: a folder of images to observe activation ranges on")
    source = load_source(model, revision=revision, offline=offline)
    if source.scheme is not None:
        raise QvggtError(f"{model}: is calibrated already ({source.scheme.label}); give the float checkpoint")
    height, width = parse_size(size, source.model)
    images = None
    if data is not None and scheme.needs_ranges:
        images = co3d_images(
            data, height, width, annotations=annotations, frames=frames, sequences=sequences, seed=seed
        )
    layers = quantize_rtn_(source.model, scheme, images, None if images is None else len(images))
    provenance = Provenance(
        source={"name": source.name, "sha256": source.sha256},
        calibration={} if images is None else images.listing(),
        versions=versions(),
        layers=layers,
    )
    save_calibrated(output, source.model, scheme, provenance, replace=force)
    worst = min(layers.items(), key=lambda item: item[1]["weight_sqnr_db"], default=None)
    typer.echo(f"{output}: {scheme.label}, {len(layers)} linears quantized ({DESCRIPTION} has the per-layer table)")
    if worst is not None:
        typer.echo(f"lowest weight SQNR: {worst[1]['weight_sqnr_db']:.1f} dB at {worst[0]}")


def main() -> None:
    run(app)
