"""qvggt-eval: geometry metrics of models and engines on the same frames."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qvggt.cli.common import check_writable, run
from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from qvggt.eval.co3d import Co3DConfig, Co3DSequences

app = typer.Typer(add_completion=False, rich_markup_mode=None)

DATASETS = ("co3d",)
EPILOG = """
\b
Examples:
  qvggt-eval --model tiny --engine w4a4.onnx --dataset co3d --root outputs/scenes --frames 8 --min-frames 8
  qvggt-eval --model tiny --model outputs/tiny-w4a4 --root outputs/scenes --frames 8 --min-frames 8 --json r.json
  qvggt-eval --model facebook/VGGT-1B --root /data/co3d --annotations /data/co3d_anno --frame-list frames.json

Protocol: pairwise camera errors on 10 random frames per sequence of at least 50, AUC pooled per category and
averaged over categories. The first row is the baseline of the deltas.
"""


@app.command(epilog=EPILOG)
def evaluate(
    root: Annotated[Path, typer.Option(help="Folder that holds the categories.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="tiny, vggt-1b, a weights file, a Hub id or a calibrated checkpoint; may be repeated."
        ),
    ] = None,
    engine: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="An .onnx file; may be repeated.")] = None,
    dataset: Annotated[str, typer.Option(help="Format of the data: co3d.")] = "co3d",
    annotations: Annotated[Path | None, typer.Option(help="Folder of the .jgz files. [ROOT/annotations]")] = None,
    categories: Annotated[str | None, typer.Option(help="Comma-separated. [all that are annotated]")] = None,
    split: Annotated[str, typer.Option(help="Which annotation files: CATEGORY_SPLIT.jgz.")] = "test",
    frames: Annotated[int, typer.Option(min=2, help="Frames drawn per sequence.")] = 10,
    min_frames: Annotated[int, typer.Option(min=1, help="Shorter sequences are skipped.")] = 50,
    max_sequences: Annotated[int | None, typer.Option(min=1, help="Only the first N names of each category.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the frames drawn.")] = 0,
    frame_list: Annotated[
        Path | None, typer.Option(help="Frames to use again if the file exists; else they are drawn and stored there.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=14, help="Image width, multiple of 14. [the engine's, else the first model's own: 518 at 1B]"),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Where to write the report.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all cores]")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    revision: Annotated[str | None, typer.Option(help="Hub revision (commit, tag or branch) to pin.")] = None,
    offline: Annotated[bool, typer.Option(help="Never use the network.")] = False,
) -> None:
    """Evaluate models and engines on the same frames: camera AUC, depth error, output SQNR, time and size."""
    from qvggt.eval.co3d import Co3DConfig

    models, engines = model or [], engine or []
    _check_candidates(models, engines)
    if dataset not in DATASETS:
        raise QvggtError(f"--dataset {dataset!r}: expected one of {', '.join(DATASETS)}")
    for place in (json, frame_list):
        if place is not None:
            check_writable(place)
    config = Co3DConfig(
        root=str(root),
        annotations=str(annotations or root / "annotations"),
        categories=tuple(c for c in (categories or "").split(",") if c),
        split=split,
        frames=frames,
        min_frames=min_frames,
        seed=seed,
        max_sequences=max_sequences,
    )
    sequences, stored = _sequences(config, frame_list)
    typer.echo(_summary(sequences))

    import torch

    from qvggt.cli.versions import versions
    from qvggt.engines.opening import open_runner
    from qvggt.engines.torch_runner import open_model
    from qvggt.eval.ground_truth import plan_images
    from qvggt.eval.harness import evaluate as run_evaluation
    from qvggt.eval.report import format_tables, make_report, write_report
    from qvggt.model.hub import hub_id

    if threads is not None:
        torch.set_num_threads(threads)
    if revision is not None and not any(hub_id(name) for name in models):
        raise QvggtError(f"--revision {revision}: no --model is a Hub id; leave it out")
    with ExitStack() as stack:
        # engines first: opening them is fast and finds most mistakes
        opened = [stack.enter_context(open_runner(path, device=device, threads=threads)) for path in engines]
        loaded = [
            stack.enter_context(
                open_model(name, device=device, revision=revision if hub_id(name) else None, offline=offline)
            )
            for name in models
        ]
        runners = [*loaded, *opened]
        plan = plan_images(runners, size)
        results = run_evaluation(runners, sequences, size=size)
    typer.echo(format_tables(results))
    if json is not None:
        report = make_report(
            results,
            config={
                "dataset": dataset,
                **vars(config),
                "images": plan.describe(),
                "threads": threads,
                "device": device,
            },
            frame_list={
                "sha256": sequences.frame_list().sha256,
                "file": None if frame_list is None else str(frame_list),
                "file_sha256": stored,
                "sequences": len(sequences),
                "skipped": sequences.skip_counts(),
                "frames": {s.key: list(s.frame_indices) for s in sequences},
            },
            versions=versions(),
        )
        write_report(json, report)
        typer.echo(f"report: {json}")


def _check_candidates(models: list[str], engines: list[Path]) -> None:
    if not models and not engines:
        raise QvggtError("nothing to evaluate: give --model, --engine or both")
    for name in models:
        if name.lower().endswith(".onnx"):
            raise QvggtError(f"--model {name}: is an ONNX file; give it with --engine")
    for path in engines:
        if path.suffix.lower() != ".onnx":
            raise QvggtError(f"--engine {path}: expected an .onnx file; give checkpoints with --model")


def _sequences(config: Co3DConfig, path: Path | None) -> tuple[Co3DSequences, str | None]:
    """The sequences, and the hash of the stored frame list if there is one."""
    from qvggt.eval.co3d import draw_frame_list, load_frame_list, read_sequences, save_frame_list

    if path is None:
        return read_sequences(config), None
    if path.exists():
        frames = load_frame_list(path)
        return read_sequences(config, frames), frames.sha256
    sequences = read_sequences(config)  # draws the same frames, and says why it skips what it skips
    frames = draw_frame_list(config)
    save_frame_list(path, frames)
    return sequences, frames.sha256


def _summary(sequences: Co3DSequences) -> str:
    categories = len({sequence.category for sequence in sequences})
    skipped = ", ".join(f"{count} {reason}" for reason, count in sequences.skip_counts().items())
    return (
        f"{len(sequences)} sequences of {categories} {'category' if categories == 1 else 'categories'}, "
        f"{sequences.config.frames} frames each, frame list {sequences.frame_list().sha256[:12]}"
        + (f"; skipped: {skipped}" if skipped else "")
    )


def main() -> None:
    run(app)
