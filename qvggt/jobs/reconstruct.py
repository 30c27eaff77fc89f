"""Reconstruct: images or a video -> a point cloud, a COLMAP model, depth maps and cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

from qvggt.data.photos import find_files, is_video
from qvggt.engines.registry import RunnerOptions, runtimes, split_files
from qvggt.errors import QvggtError
from qvggt.eval.reconstruction.config import (
    FORMATS,
    MARKER,
    USUAL,
    DepthSize,
    Format,
    Mask,
    PointSource,
    ReconstructionConfig,
    Tracking,
    Viewer,
)
from qvggt.jobs.candidates import check_precision
from qvggt.jobs.job import Doc, Job, Place, Result, Source
from qvggt.jobs.options import PATCH, Device, File, Fit, Offline, Precision, Revision, Threads, WeightBudget
from qvggt.jobs.places import check_place
from qvggt.jobs.source import check_source
from qvggt.jobs.words import one_of
from qvggt.mapping import at_least, between
from qvggt.progress import Console

if TYPE_CHECKING:
    from qvggt.engines.runner import Runner
    from qvggt.eval.reconstruction.cloud import Cloud
    from qvggt.eval.reconstruction.scene import Scene

GIB = 1 << 30
MASKS = get_args(Mask)


@dataclass(frozen=True)
class Reconstruction(Result):
    """A folder of files, and what is in them. files: name in the folder -> bytes. facts: of reconstruction.json.

    scene: cameras, points and depth of every image, as arrays; cloud: the points of the GLB and PLY files.
    """

    output: Path
    cameras: int
    points: int
    files: Mapping[str, int] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)
    scene: Scene = field(repr=False, compare=False)
    cloud: Cloud = field(repr=False, compare=False)

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {"output": str(self.output), "report": str(self.output / MARKER), "cameras": self.cameras, **self.facts}

    def lines(self) -> list[str]:
        """The files with their sizes, many alike (images, depth maps) in one line; tracks, where there are some."""
        from qvggt.eval.reconstruction.overview import grouped

        lines = []
        for name, number, size in grouped(self.files):
            count = f", {number} files" if name.endswith("/") else ""
            lines.append(f"  {name:<22}{size / 1e6:9.2f} MB{count}")
        if (tracks := self.facts.get("tracks")) is not None:
            lines.append(f"  {tracks['queries']} tracks, {tracks['visible']:.0%} of their places visible")
        return lines


@dataclass(frozen=True)
class ReconstructJob(Job[Reconstruction]):
    """Reconstruct a scene from images or a video.

    Cameras, points and depth, in files that other programs open.
    """

    name: ClassVar[str] = "reconstruct"
    examples: ClassVar[tuple[str, ...]] = (
        "qvggt reconstruct photos/ --model facebook/VGGT-1B -o out",
        "qvggt reconstruct photos/ --engine vggt-w8a8.onnx --mask black --conf-percentile 40 -o out",
        "qvggt reconstruct walk.mp4 --fps 2 --max-images 60 --engine vggt-w8a8.onnx -o out",
        "qvggt reconstruct a.jpg b.jpg c.jpg --model facebook/VGGT-1B --query-grid 16 -o out",
        "qvggt reconstruct photos/ --model facebook/VGGT-1B --shared-camera --colmap-tracks matches -o out",
        "qvggt reconstruct photos/ --model facebook/VGGT-1B --viewer viser -o out   # and look at it in a browser",
        "qvggt reconstruct photos/ --model tiny --formats glb,cameras -o out   # a quick try, no download",
    )
    more: ClassVar[str] = """\b
What OUT holds:
  scene.glb            points and cameras, y up: for browsers, Blender, game engines
  points.ply           the same points in the world of cameras.json (OpenCV axes)
  images/              the images, upright
  sparse/0, sparse_text  a COLMAP model of images/, binary and text (OUT opens in COLMAP and Gaussian splatting tools)
  depth/               NAME.png (16 bit, scale in reconstruction.json) and NAME.npz (exact, with confidence)
  cameras.json         intrinsics of the upright originals, poses, conventions
  tracks.npz           with --query-points, --query-grid or --colmap-tracks head
  scene.rrd            with --formats rrd: a Rerun recording
  preview.png, index.html  a picture, and a page about the folder: begin here
  reconstruction.json  what was done: network, options, passes, how they were joined, counts

Many images go through the network in overlapping passes, in the order given; each pass is then fitted to the one
before by a similarity from the images both saw. The fit is printed, and errors add up from pass to pass.
"""

    inputs: Annotated[
        Sequence[Place], Doc("Image files, folders of images, or one video.", argument=True, metavar="IMAGES|VIDEO")
    ]
    output: Annotated[Place, Doc("Folder to write.", ("-o", "--output"))]
    _: KW_ONLY
    engine: Annotated[
        Place | None,
        Doc("An exported model or engine; FILE,FILE,...: one network at several image sizes.", metavar="FILE"),
    ] = None
    model: Annotated[
        Source | None,
        Doc(
            "In place of --engine: tiny, vggt-1b, a weights file, Hub id or calibrated checkpoint.",
            metavar="NAME",
        ),
    ] = None
    formats: Annotated[
        tuple[Format, ...],
        Doc(
            f"Comma-separated: {', '.join(FORMATS)}. rrd is a Rerun recording, page preview.png and index.html.",
            comma=True,
            parse=one_of("--formats", FORMATS),
            words=FORMATS,
        ),
    ] = USUAL
    viewer: Annotated[
        Viewer | None, Doc("Open the result: in rerun's window, or in viser's local page (Ctrl-C ends it).")
    ] = None
    points: Annotated[PointSource, Doc("depth: unproject depth maps (sharper). head: the network's point maps.")] = (
        "depth"
    )
    conf_percentile: Annotated[
        float, Doc("Drop this share of the pixels, the least confident, in percent."), between(0, 99.9)
    ] = 25.0
    edges: Annotated[
        float,
        Doc("Drop pixels beside a jump of depth by more than this share, whose points hang in the air; 0 keeps them."),
        at_least(0),
    ] = 0.15
    mask: Annotated[
        tuple[Mask, ...],
        Doc(
            "Comma-separated: black, white (backgrounds); sky, a rule of thumb by colour and smoothness, not a "
            "segmentation network.",
            comma=True,
            parse=one_of("--mask", MASKS),
            words=MASKS,
        ),
    ] = ()
    masks: Annotated[Place | None, Doc("Folder of mask files NAME.jpg.png or NAME.png; black is left out.")] = None
    max_points: Annotated[int, Doc("In GLB and PLY, drawn at random; 0: all."), at_least(0)] = 1_000_000
    colmap_points: Annotated[int, Doc("In the COLMAP model, likewise."), at_least(0)] = 100_000
    colmap_tracks: Annotated[
        Tracking | None,
        Doc(
            "Points of the COLMAP model seen in several images, so that bundle adjustment can refine it: matches "
            "(SIFT features, triangulated), or head (a checkpoint's track head). [from depth, seen in one image each]"
        ),
    ] = None
    shared_camera: Annotated[bool, Doc("One camera for all images in the COLMAP model: one lens, no zoom.")] = False
    depth_size: Annotated[DepthSize, Doc("Pixels of the depth PNGs: network, or image (those of the original).")] = (
        "network"
    )
    fps: Annotated[float, Doc("Frames taken per second of a video."), at_least(0.001)] = 2.0
    every: Annotated[int, Doc("Of images, take one in so many."), at_least(1)] = 1
    max_images: Annotated[int | None, Doc("Take the first so many images or frames."), at_least(1)] = None
    size: Annotated[
        int | None, Doc(f"Image width, multiple of {PATCH}. [the engine's, the model's, or 518]"), at_least(PATCH)
    ] = None
    fit: Fit = "crop"
    max_frames_per_pass: Annotated[
        int | None, Doc("Images that go through the network together. [what the memory allows]"), at_least(1)
    ] = None
    overlap: Annotated[int, Doc("Images that consecutive passes share."), at_least(1)] = 4
    memory_limit: Annotated[
        float | None, Doc("GiB a pass may take, estimated. [70 % of what is free]"), at_least(0.1)
    ] = None
    query_points: Annotated[Place | None, Doc("Text file of x y in pixels of the first image: points to track.")] = None
    query_grid: Annotated[int | None, Doc("Track N x N points instead."), at_least(1)] = None
    device: Device = None
    precision: Precision = None
    weight_streaming_budget: WeightBudget = None
    runtime: Annotated[str | None, Doc("Of an .onnx file: onnxruntime or openvino. [onnxruntime]", words=runtimes)] = (
        None
    )
    revision: Revision = None
    file: File = None
    offline: Offline = False
    seed: Annotated[int, Doc("Of the points drawn.")] = 0
    threads: Threads = None

    def config(self) -> ReconstructionConfig:
        """What the reconstruction reads."""
        return ReconstructionConfig(
            size=self.size,
            fit=self.fit,
            every=self.every,
            limit=self.max_images,
            rate=self.fps,
            points=self.points,
            percentile=self.conf_percentile,
            edges=self.edges,
            masks=self.mask,
            mask_folder=None if self.masks is None else str(self.masks),
            max_points=self.max_points,
            colmap_points=self.colmap_points,
            formats=self.formats,
            shared_camera=self.shared_camera,
            colmap_tracks=self.colmap_tracks,
            depth_size=self.depth_size,
            frames_per_pass=self.max_frames_per_pass,
            overlap=self.overlap,
            memory_limit=None if self.memory_limit is None else int(self.memory_limit * GIB),
            queries=None if self.query_points is None else str(self.query_points),
            query_grid=self.query_grid,
            seed=self.seed,
        )

    def options(self) -> RunnerOptions:
        """How the network is opened."""
        return RunnerOptions(
            runtime=self.runtime,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            revision=self.revision,
            offline=self.offline,
            weight_streaming_budget=self.weight_streaming_budget,
        )

    def check(self) -> None:
        if (self.engine is None) == (self.model is None):
            raise QvggtError("give one of --engine and --model (see qvggt reconstruct --help)")
        if str(self.model).lower().endswith(".onnx"):
            raise QvggtError(f"--model {self.model}: is an ONNX file; give it with --engine")
        if self.weight_streaming_budget is not None and self.engine is None:
            raise QvggtError(f"--weight-streaming-budget {self.weight_streaming_budget}: is for --engine; leave it out")
        tracking = self.config().tracking
        self.options()
        if tracking and self.engine is not None:
            raise QvggtError(
                f"--engine {self.engine}: exported models have no track head; give a checkpoint with --model"
            )
        if tracking and not isinstance(self.model, str | Path):
            raise QvggtError("model: is one in memory, which has no track head; give a checkpoint by name")

    def prepare(self) -> None:
        output = Path(self.output)
        if output.is_dir() and any(output.iterdir()):
            if not (output / MARKER).is_file():
                raise QvggtError(f"{output}: is not empty and holds no {MARKER}; choose another folder")
            if not self.overwrite:
                raise QvggtError(f"{output}: holds a reconstruction already; choose another folder, or add --overwrite")
        check_place(output)
        self.config().check_files()
        check_precision(self.precision, () if self.model is None else (self.model,))
        if not (len(self.inputs) == 1 and is_video(Path(self.inputs[0]))):
            find_files([Path(path) for path in self.inputs])
        elif not Path(self.inputs[0]).is_file():
            raise QvggtError(f"{self.inputs[0]}: no such video file")
        if self.model is not None:
            check_source(self.model, self.revision)
        for file in () if self.engine is None else split_files(self.engine):
            if not Path(str(file)).exists():
                raise QvggtError(f"--engine {file}: no such file")

    def execute(self, console: Console) -> Reconstruction:
        from qvggt.eval.reconstruction.folder import check_libraries, reconstruct_folder
        from qvggt.eval.reconstruction.viewers import check_viewer, show

        config, output = self.config(), Path(self.output)
        inputs = [Path(path) for path in self.inputs]
        check_libraries(config, inputs)  # before a model is loaded, or downloaded
        check_viewer(self.viewer)
        with self._open(config.tracking) as runner:
            for note in runner.notes:
                console.warn(f"{runner.label}: {note}")
            made = reconstruct_folder(
                runner, inputs, output, config, device=self.device, overwrite=self.overwrite, say=console.say
            )
        counts = len(made.photos), len(made.cloud)
        result = Reconstruction(output, *counts, dict(made.files), made.facts, made.scene, made.cloud)
        console.result(f"{output}: {result.cameras} cameras, {result.points:,} points")
        for line in result.lines():
            console.say(line)
        for doubt in made.facts["warnings"]:
            console.warn(f"warning: {doubt}")
        if self.viewer is not None:
            show(made, self.viewer, console.result)
        return result

    def _open(self, tracking: bool) -> Runner:
        from qvggt.engines.opening import open_runner

        if self.engine is not None:
            return open_runner(self.engine, self.options())
        if tracking:
            from qvggt.eval.reconstruction.tracks import open_tracking

            hub: dict[str, Any] = {"revision": self.revision, "offline": self.offline}
            return open_tracking(str(self.model), float_type=self.precision, device=self.device or "cpu", **hub)
        return open_runner(self.model, self.options())  # type: ignore[arg-type]
