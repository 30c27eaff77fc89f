"""qvggt-eval: candidates against ground truth and against each other, on the same frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qvggt.cli.common import run
from qvggt.errors import QvggtError

app = typer.Typer(add_completion=False, rich_markup_mode=None)
DATASETS = ("co3d",)


@app.command(
    epilog="Example: qvggt-eval --model tiny --model outputs/tiny-w4a4 --engine outputs/tiny-w4a4.onnx "
    "--dataset co3d --root outputs/scenes --frames 4 --min-frames 8"
)
def evaluate(
    root: Annotated[Path, typer.Option(help="Data set root; for Co3D the folder that holds the categories.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="PyTorch candidate: tiny, weights file, Hub id or calibrated checkpoint. Repeatable."),
    ] = None,
    engine: Annotated[list[Path] | None, typer.Option(help="Exported .onnx candidate. Repeatable.")] = None,
    dataset: Annotated[str, typer.Option(help="co3d.")] = "co3d",
    annotations: Annotated[Path | None, typer.Option(help="Folder of the .jgz files. [ROOT/annotations]")] = None,
    categories: Annotated[str, typer.Option(help="Comma-separated. [all that are annotated]")] = "",
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    frames: Annotated[int, typer.Option(min=2, help="Frames per sequence, drawn once and stored.")] = 10,
    min_frames: Annotated[int, typer.Option(min=1, help="Shorter sequences are skipped (protocol: 50).")] = 50,
    max_sequences: Annotated[int | None, typer.Option(min=1, help="Fast mode: first N of each category.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the frames drawn.")] = 0,
    frame_list: Annotated[
        Path | None, typer.Option(help="Stored frames: used when the file exists, else written.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=14, help="Image width where no engine fixes a size. [the first model's own]")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Where to write all figures and per-sequence records.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of every candidate. [all]")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision to pin.")] = None,
    offline: Annotated[bool, typer.Option(help="Never use the network.")] = False,
) -> None:
    """Camera AUC, depth errors, output parity and latency of any number of candidates.

    All candidates see the same pixels. Models come first in the table, then engines, each in the order given; the
    first line is the one the deltas refer to.
    """
    import torch

    from qvggt.cli.source import output_place
    from qvggt.cli.versions import versions
    from qvggt.engines.onnx_runner import OnnxRunner
    from qvggt.engines.runner import Runner
    from qvggt.engines.torch_runner import TorchRunner, open_model
    from qvggt.eval import harness, report
    from qvggt.eval.co3d import Co3DConfig, load_frame_list, read_sequences, save_frame_list

    if dataset not in DATASETS:
        raise QvggtError(f"--dataset {dataset!r}: expected one of {', '.join(DATASETS)}")
    if not model and not engine:
        raise QvggtError("nothing to evaluate: give at least one --model or --engine")
    for place in (json, frame_list):
        if place is not None:
            output_place(place)
    if threads is not None:
        torch.set_num_threads(threads)
    config = Co3DConfig(
        root=str(root),
        annotations=str(annotations or root / "annotations"),
        categories=tuple(c for c in categories.split(",") if c),
        split=split,
        frames=frames,
        min_frames=min_frames,
        seed=seed,
        max_sequences=max_sequences,
    )
    stored = load_frame_list(frame_list) if frame_list is not None and frame_list.exists() else None
    sequences = read_sequences(config, stored)
    listed = sequences.frame_list()
    if frame_list is not None and stored is None:
        save_frame_list(frame_list, listed)
    skipped = ", ".join(f"{n} {reason}" for reason, n in sequences.skip_counts().items()) or "none"
    typer.echo(f"{len(sequences)} sequences of {frames} frames (skipped: {skipped}), frame list {listed.sha256[:12]}")

    runners: list[Runner] = [open_model(m, revision=revision, offline=offline) for m in model or []]
    runners += [OnnxRunner(e, threads=threads, label=f"{e.stem} ONNX Runtime") for e in engine or []]
    first = runners[0]
    own = first.model.config.img_size if isinstance(first, TorchRunner) else 518
    results = harness.evaluate(runners, sequences.sequences, size or own)
    typer.echo(report.table(results))
    typer.echo("AUC in points (0-100); d: against the first line; s/seq: median, this machine, first call included")
    if json is not None:
        call = {
            "dataset": dataset,
            "root": str(root),
            "split": split,
            "frames": frames,
            "min_frames": min_frames,
            "seed": seed,
            "sequences": len(sequences),
            "skipped": sequences.skip_counts(),
            "versions": versions(),
        }
        frame_facts = {"sha256": listed.sha256, "frames": {k: list(v) for k, v in listed.frames.items()}}
        report.write_document(json, report.document(results, call, frame_facts))
        typer.echo(f"wrote {json}")
    for runner in runners:
        runner.close()


def main() -> None:
    run(app)
