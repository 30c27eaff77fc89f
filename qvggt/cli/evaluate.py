"""qvggt-eval: geometry metrics of models and engines on the same frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from qvggt.cli.common import PATCH, application, check_place, check_writable, filled, given_options
from qvggt.cli.evaluation import Candidates, Outputs, merge, page, run_evaluation
from qvggt.cli.evaluation_data import data_request
from qvggt.cli.options import Device, FrameSeed, Models, Offline, Revision, Show, Threads
from qvggt.data.registry import Question, dataset_names
from qvggt.errors import QvggtError

app, main = application()

EPILOG = """
\b
Examples:
  qvggt-eval --model tiny --engine w4a4.onnx --dataset synthetic --scenes 32 --frames 4
  qvggt-eval --model tiny --model outputs/tiny-w4a4 --root outputs/scenes --frames 8 --min-frames 8 --json r.json
  qvggt-eval --model facebook/VGGT-1B --root /data/co3d --annotations /data/co3d_anno --frame-list frames.json
  qvggt-eval --model vggt-1b --engine w4a4.engine --dataset 7scenes --root /data/7scenes --records r.jsonl
  qvggt-eval ... --shard 1/2 --records a.jsonl        (on another machine: --shard 2/2 --records b.jsonl)
  qvggt-eval merge a.jsonl b.jsonl --json r.json --html r.html
  qvggt-eval report r.json --html r.html --open        (the page of a finished evaluation)

The first row is the baseline of the deltas. Protocols and the format of the files: docs/evaluation.md
"""


@app.callback(invoke_without_command=True, epilog=EPILOG)
def evaluate(
    context: typer.Context,
    model: Models = None,
    engine: Annotated[
        list[str] | None,
        Option(metavar="FILE", help="An .onnx file, openvino:FILE.onnx, or an engine; may be repeated."),
    ] = None,
    dataset: Annotated[str, Option(help=f"One of {', '.join(dataset_names())}.")] = "co3d",
    root: Annotated[
        Path | None, Option(help="Folder that holds the categories or scenes. [synthetic: generated]")
    ] = None,
    annotations: Annotated[Path | None, Option(help="Folder of the .jgz files. [ROOT/annotations]")] = None,
    categories: Annotated[
        str | None, Option(help="Categories or scenes, comma-separated. [all that are there]")
    ] = None,
    split: Annotated[str, Option(help="Which annotation files: CATEGORY_SPLIT.jgz.")] = "test",
    frames: Annotated[
        int | None, Option(min=2, help="Frames per sequence. [co3d 10, synthetic 8, rooms all of the stride]")
    ] = None,
    min_frames: Annotated[
        int | None, Option(min=1, help="Shorter sequences are skipped. [co3d 50, synthetic --frames]")
    ] = None,
    max_sequences: Annotated[int | None, Option(min=1, help="Only the first N names of each category.")] = None,
    scenes: Annotated[int | None, Option(min=1, help="Generated scenes (synthetic without --root). [32]")] = None,
    stride: Annotated[int | None, Option(min=1, help="Rooms: every n-th frame. [100]")] = None,
    depth: Annotated[
        Literal["auto", "proj", "raw"],
        Option(help="7-Scenes depth maps: depth.proj.png, raw depth.png, or proj where it is there."),
    ] = "auto",
    fast: Annotated[bool, Option("--fast", help="Fewer sequences; see docs/evaluation.md.")] = False,
    seed: FrameSeed = 0,
    frame_list: Annotated[
        Path | None, Option(help="Frames to use again if the file exists; else they are drawn and stored there.")
    ] = None,
    size: Annotated[
        int | None,
        Option(
            min=PATCH, help=f"Image width, multiple of {PATCH}. [the engine's, else the first model's own: 518 at 1B]"
        ),
    ] = None,
    metrics: Annotated[str | None, Option(help="Of pose, depth, points. [co3d pose,depth; others all]")] = None,
    sim3: Annotated[bool, Option("--sim3", help="Points: fit a similarity before ICP.")] = False,
    point_backend: Annotated[
        Literal["auto", "open3d", "scipy"],
        Option(help="Points: what computes ICP and normals; auto: Open3D where it is installed."),
    ] = "auto",
    warmup: Annotated[int, Option(min=0, help="Untimed passes per candidate and image shape.")] = 1,
    repeats: Annotated[int, Option(min=1, help="Timed passes per sequence.")] = 1,
    memory: Annotated[bool, Option("--memory", help="Measure peak memory, each in its own process.")] = False,
    json: Annotated[Path | None, Option(help="Where to write the report.")] = None,
    html: Annotated[
        Path | None, Option(help="Where to write the report as one HTML page; pictures need --store.")
    ] = None,
    show: Show = False,
    records: Annotated[
        Path | None, Option(help="Write every finished sequence there (.jsonl) and go on where it stopped.")
    ] = None,
    shard: Annotated[str | None, Option(metavar="I/N", help="Only every N-th sequence; merge them later.")] = None,
    store: Annotated[Path | None, Option(help="Folder for the predictions of the worst sequences.")] = None,
    worst: Annotated[int, Option(min=1, help="How many sequences --store keeps.")] = 6,
    threads: Threads = None,
    device: Device = None,
    provider: Annotated[
        list[str] | None, Option(help="ONNX Runtime: cpu, cuda, tensorrt or a provider's name; may be repeated.")
    ] = None,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Evaluate models and engines on the same frames: cameras, depth, points, output SQNR, time, memory and size."""
    if context.invoked_subcommand is not None:
        for name in given_options(context):
            option = "open" if name == "show" else name.replace("_", "-")
            raise QvggtError(f"--{option}: has no use before {context.invoked_subcommand}; leave it out")
        return
    models, engines = tuple(model or ()), tuple(engine or ())
    _check_candidates(models, engines)
    names = tuple(c for c in (categories or "").split(",") if c)
    question = filled(Question, locals(), root=Path(), categories=names)
    request = data_request(dataset, root, scenes, fast, question, frame_list)
    _check_files(html, show, json, frame_list, records)
    if store is not None:
        if store.exists() and not store.is_dir():
            raise QvggtError(f"{store}: is a file, expected a folder for --store")
        check_place(store / "file")
    if shard is not None and (records is None or json is not None or html is not None):
        raise QvggtError("--shard: give --records FILE, and --json and --html to 'qvggt-eval merge' afterwards")

    from qvggt.eval.clouds import default_backend
    from qvggt.eval.harness import Protocol
    from qvggt.eval.merging import parse_shard
    from qvggt.eval.points import PointConfig

    asked = tuple(name for name in (metrics or "").split(",") if name) or request.dataset.metrics
    points = PointConfig(sim3=sim3)
    if "points" in asked:
        points = PointConfig(sim3=sim3, backend=default_backend() if point_backend == "auto" else point_backend)
    run_evaluation(
        request,
        Candidates(models, engines, device, tuple(provider or ()), threads, revision, offline),
        Protocol(metrics=asked, warmup=warmup, repeats=repeats, points=points),
        size,
        Outputs(json, records, parse_shard(shard) if shard else (1, 1), store, worst, memory, html, show),
    )


@app.command("merge")
def merge_command(
    files: Annotated[list[Path], Argument(help="Record files (--records) of all shards of one run.")],
    json: Annotated[Path | None, Option(help="Where to write the report.")] = None,
    html: Annotated[Path | None, Option(help="Where to write the report as one HTML page.")] = None,
    show: Show = False,
) -> None:
    """Put the record files of an evaluation together: its tables and its report."""
    _check_files(html, show, json)
    merge(files, Outputs(json, html=html, show=show))


@app.command("report")
def report_command(
    json: Annotated[Path, Argument(help="What qvggt-eval --json wrote.")],
    html: Annotated[Path | None, Option(help="Where to write the page. [beside the JSON, as .html]")] = None,
    show: Show = False,
) -> None:
    """The report of a finished evaluation as one HTML page that needs no network."""
    place = json.with_suffix(".html") if html is None else html
    if place.resolve() == json.resolve():
        raise QvggtError(f"--html {place}: is the report itself; give another name")
    check_writable(place)
    page(json, place, show)


def _check_files(html: Path | None, show: bool, *others: Path | None) -> None:
    if show and html is None:
        raise QvggtError("--open: give --html FILE, which it opens")
    for place in (html, *others):
        if place is not None:
            check_writable(place)


def _check_candidates(models: tuple[str, ...], engines: tuple[str, ...]) -> None:
    from qvggt.engines.registry import file_suffixes, split_runtime

    if not models and not engines:
        raise QvggtError("nothing to evaluate: give --model, --engine or both")
    for name in models:
        if name.lower().endswith(".onnx"):
            raise QvggtError(f"--model {name}: is an ONNX file; give it with --engine")
    for text in engines:
        path = Path(split_runtime(text)[1])
        if path.suffix.lower() not in file_suffixes():
            raise QvggtError(
                f"--engine {text}: expected an .onnx file or an engine ({', '.join(file_suffixes()[1:])}); "
                "give checkpoints with --model"
            )
