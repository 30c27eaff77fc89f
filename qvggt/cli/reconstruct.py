"""qvggt-reconstruct: images or a video to a point cloud, a COLMAP model, depth maps and cameras."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from qvggt.cli.common import PATCH, application, check_place, filled
from qvggt.cli.options import Device, Offline, Revision, Threads
from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from qvggt.engines.registry import RunnerOptions
    from qvggt.engines.runner import Runner
    from qvggt.eval.reconstruction.folder import Result

app, main = application()

GIB = 1 << 30
EPILOG = """
\b
Examples:
  qvggt-reconstruct photos/ --model facebook/VGGT-1B -o out
  qvggt-reconstruct photos/ --engine vggt-w8a8.onnx --mask black --conf-percentile 40 -o out
  qvggt-reconstruct walk.mp4 --fps 2 --max-images 60 --engine vggt-w8a8.onnx -o out
  qvggt-reconstruct a.jpg b.jpg c.jpg --model facebook/VGGT-1B --query-grid 16 -o out
  qvggt-reconstruct photos/ --model tiny --formats glb,cameras -o out      (a quick try, no download)

\b
What OUT holds:
  scene.glb            points and cameras, y up: for browsers, Blender, game engines
  points.ply           the same points in the world of cameras.json (OpenCV axes)
  images/              the images, upright
  sparse/0, sparse_text  a COLMAP model of images/, binary and text (OUT opens in COLMAP and Gaussian splatting tools)
  depth/               NAME.png (16 bit, scale in reconstruction.json) and NAME.npz (exact, with confidence)
  cameras.json         intrinsics of the upright originals, poses, conventions
  tracks.npz           with --query-points or --query-grid
  reconstruction.json  what was done: network, options, passes, how they were joined, counts

Many images go through the network in overlapping passes, in the order given; each pass is then fitted to the one
before by a similarity from the images both saw. The fit is printed, and errors add up from pass to pass.
"""


@app.command(epilog=EPILOG)
def reconstruct(
    inputs: Annotated[
        list[Path], Argument(metavar="IMAGES|VIDEO", help="Image files, folders of images, or one video.")
    ],
    output: Annotated[Path, Option("-o", "--output", help="Folder to write.")],
    engine: Annotated[Path | None, Option(metavar="FILE", help="An exported model or engine.")] = None,
    model: Annotated[
        str | None,
        Option(
            metavar="NAME", help="In place of --engine: tiny, vggt-1b, a weights file, Hub id or calibrated checkpoint."
        ),
    ] = None,
    formats: Annotated[
        str, Option(help="Comma-separated: glb, ply, colmap, depth, cameras, images.")
    ] = "glb,ply,colmap,depth,cameras,images",
    points: Annotated[
        str, Option(help="depth: unproject depth maps (sharper). head: the network's point maps.")
    ] = "depth",
    conf_percentile: Annotated[
        float, Option(min=0, max=99.9, help="Drop this share of the pixels, the least confident, in percent.")
    ] = 25.0,
    mask: Annotated[
        str | None,
        Option(
            help="Comma-separated: black, white (backgrounds); sky, a rule of thumb by colour and smoothness, not a "
            "segmentation network."
        ),
    ] = None,
    masks: Annotated[
        Path | None, Option(help="Folder of mask files NAME.jpg.png or NAME.png; black is left out.")
    ] = None,
    max_points: Annotated[int, Option(min=0, help="In GLB and PLY, drawn at random; 0: all.")] = 1_000_000,
    colmap_points: Annotated[int, Option(min=0, help="In the COLMAP model, likewise.")] = 100_000,
    depth_size: Annotated[
        str, Option(help="Pixels of the depth PNGs: network, or image (those of the original).")
    ] = "network",
    fps: Annotated[float, Option(min=0.001, help="Frames taken per second of a video.")] = 2.0,
    every: Annotated[int, Option(min=1, help="Of images, take one in so many.")] = 1,
    max_images: Annotated[int | None, Option(min=1, help="Take the first so many images or frames.")] = None,
    size: Annotated[
        int | None, Option(min=PATCH, help=f"Image width, multiple of {PATCH}. [the engine's, the model's, or 518]")
    ] = None,
    fit: Annotated[
        str, Option(help="Of images taller than wide: crop (as VGGT does by default) or pad to a white square.")
    ] = "crop",
    max_frames_per_pass: Annotated[
        int | None, Option(min=1, help="Images that go through the network together. [what the memory allows]")
    ] = None,
    overlap: Annotated[int, Option(min=1, help="Images that consecutive passes share.")] = 4,
    memory_limit: Annotated[
        float | None, Option(min=0.1, help="GiB a pass may take, estimated. [70 % of what is free]")
    ] = None,
    query_points: Annotated[
        Path | None, Option(help="Text file of x y in pixels of the first image: points to track.")
    ] = None,
    query_grid: Annotated[int | None, Option(min=1, help="Track N x N points instead.")] = None,
    overwrite: Annotated[bool, Option(help="Replace OUT if it is a reconstruction.")] = False,
    threads: Threads = None,
    device: Device = None,
    runtime: Annotated[str | None, Option(help="Of an .onnx file: onnxruntime or openvino. [onnxruntime]")] = None,
    revision: Revision = None,
    offline: Offline = False,
    seed: Annotated[int, Option(help="Of the points drawn.")] = 0,
) -> None:
    """Reconstruct a scene: cameras, points and depth of images or a video, in files that other programs open."""
    if (engine is None) == (model is None):
        raise QvggtError("give one of --engine and --model (see qvggt-reconstruct --help)")
    _check_output(output, overwrite)

    from qvggt.data.photos import find_images, is_video
    from qvggt.engines.registry import RunnerOptions
    from qvggt.eval.reconstruction.config import ReconstructionConfig
    from qvggt.eval.reconstruction.folder import check_libraries, reconstruct_folder

    config = filled(
        ReconstructionConfig,
        locals(),
        limit=max_images,
        rate=fps,
        percentile=conf_percentile,
        masks=_words(mask),
        mask_folder=None if masks is None else str(masks),
        formats=_words(formats),
        frames_per_pass=max_frames_per_pass,
        memory_limit=None if memory_limit is None else int(memory_limit * GIB),
        queries=None if query_points is None else str(query_points),
    )
    check_libraries(config, inputs)
    if not (len(inputs) == 1 and is_video(inputs[0])):
        find_images(inputs)  # before a model is loaded, or downloaded
    options = filled(RunnerOptions, locals())
    with _open(engine, model, config.tracking, options) as runner:
        result = reconstruct_folder(runner, inputs, output, config, device=device, overwrite=overwrite, say=typer.echo)
    typer.echo(_summary(output, result))


def _check_output(output: Path, overwrite: bool) -> None:
    from qvggt.eval.reconstruction.folder import MARKER

    if output.is_dir() and any(output.iterdir()):
        if not (output / MARKER).is_file():
            raise QvggtError(f"{output}: is not empty and holds no {MARKER}; choose another folder")
        if not overwrite:
            raise QvggtError(f"{output}: holds a reconstruction already; choose another folder, or add --overwrite")
    check_place(output)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))


def _open(engine: Path | None, model: str | None, tracking: bool, options: RunnerOptions) -> Runner:
    import torch

    from qvggt.engines.opening import open_runner
    from qvggt.eval.reconstruction.tracks import open_tracking

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if engine is not None:
        if tracking:
            raise QvggtError(f"--engine {engine}: exported models have no track head; give a checkpoint with --model")
        if not engine.exists():
            raise QvggtError(f"--engine {engine}: no such file")
        return open_runner(engine, options)
    assert model is not None
    if model.lower().endswith(".onnx"):
        raise QvggtError(f"--model {model}: is an ONNX file; give it with --engine")
    if tracking:
        return open_tracking(model, device=options.device or "cpu", revision=options.revision, offline=options.offline)
    return open_runner(model, options)


def _summary(output: Path, result: Result) -> str:
    """Folder, counts and the files; many alike (images, depth maps) in one line."""
    lines = [f"{output}: {len(result.photos)} cameras, {len(result.cloud):,} points"]
    groups: dict[str, list[int]] = {}
    for name, size in result.files:
        groups.setdefault(name.rsplit("/", 1)[0] + "/" if "/" in name else name, []).append(size)
    for name, sizes in groups.items():
        count = f", {len(sizes)} files" if name.endswith("/") else ""
        lines.append(f"  {name:<22}{sum(sizes) / 1e6:9.2f} MB{count}")
    if (tracks := result.facts.get("tracks")) is not None:
        lines.append(f"  {tracks['queries']} tracks, {tracks['visible']:.0%} of their places visible")
    return "\n".join(lines)
