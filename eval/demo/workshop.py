"""What the page does when a button is pressed, without the page: pictures and a network in, files and figures out."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qvggt.data.images import Mode
from qvggt.data.photos import find_images
from qvggt.engines.runner import Runner
from qvggt.errors import QvggtError
from qvggt.eval.ground_truth import ImagePlan, plan_images
from qvggt.eval.pose import pairwise_errors
from qvggt.eval.reconstruction.cloud import Cloud, build_cloud, select
from qvggt.eval.reconstruction.colmap import BINARY
from qvggt.eval.reconstruction.config import ReconstructionConfig
from qvggt.eval.reconstruction.folder import Result, reconstruct_folder, unmasked
from qvggt.eval.reconstruction.meshes import write_glb

MAX_POINTS = 300_000  # a browser turns them smoothly
KEPT = 4  # of the last reconstructions that stay in memory to be shown in other ways
EXAMPLES = {"Objects": 5, "Blocks": 9, "Balls": 13}  # generated scenes the page offers, and their seeds
EXAMPLE_SIDE, EXAMPLE_FRAMES = 140, 6
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same files give the same archive


@dataclass(frozen=True)
class Limits:
    """Of one request. images: how many; megabytes: of one file."""

    images: int = 32
    megabytes: int = 30


@dataclass(frozen=True)
class Choice:
    """A network the page offers. open: makes its runner; called when it is first used."""

    name: str
    open: Callable[[], Runner]


@dataclass(frozen=True)
class Made:
    """One reconstruction. glb, colmap: files for download (colmap: a zip of images and model). seconds: the network
    and everything around it, on this machine."""

    name: str
    glb: Path
    colmap: Path
    seconds: float
    bytes: int
    result: Result
    config: ReconstructionConfig

    def cloud(self, percentile: float) -> Cloud:
        """The points to show when so many percent are dropped; the network is not asked again."""
        frames, config = self.result.frames, self.config
        free = unmasked(frames, self.result.photos, config, lambda _: None)  # said before
        selection = select(self.result.scene, frames.inside(), free, percentile, config.edges)
        return build_cloud(self.result.scene, selection, frames.pixels).at_most(config.max_points)


class Workshop:
    """Runs reconstructions one at a time. Keeps the runners it opened, and a folder of results that `close` deletes."""

    def __init__(
        self,
        choices: Sequence[Choice],
        limits: Limits | None = None,
        device: str | None = None,
        fit: Mode = "crop",
    ) -> None:
        if not choices:
            raise QvggtError("demo: expected at least one model or engine")
        names = [choice.name for choice in choices]
        if len(set(names)) < len(names):
            raise QvggtError(f"demo: expected networks of different names, got {', '.join(names)}")
        self.choices = {choice.name: choice for choice in choices}
        self.limits, self.device, self.fit = limits or Limits(), device, fit
        self.folder = Path(tempfile.mkdtemp(prefix="qvggt-demo-"))
        self.runners: dict[str, Runner] = {}
        self.made: dict[str, list[Made]] = {}
        self.lock = threading.Lock()

    def close(self) -> None:
        """Free the networks and delete every result."""
        for runner in self.runners.values():
            runner.close()
        self.runners.clear()
        self.made.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def make(self, names: Sequence[str], images: Sequence[Path], percentile: float, masks: Sequence[str]) -> list[Made]:
        """Reconstruct `images` with each of the networks `names`, which all get the same pixels.

        QvggtError for too many or too large images, networks that take no common size, and whatever
        `reconstruct_folder` finds.
        """
        self.check(images)
        for name in names:
            if name not in self.choices:
                raise QvggtError(f"network {name!r}: expected one of {', '.join(self.choices)}")
        config = ReconstructionConfig(
            percentile=percentile,
            masks=tuple(masks),
            max_points=MAX_POINTS,
            formats=("glb", "colmap", "cameras", "images"),
        )
        with self.lock:
            for name in names:
                if name not in self.runners:
                    self.runners[name] = self.choices[name].open()
            plan = plan_images([self.runners[name] for name in names], fit=self.fit)
            made = [self._make(name, images, config, plan) for name in names]
            self.made[self.key(made)] = made
            while len(self.made) > KEPT:
                del self.made[next(iter(self.made))]
            return made

    @staticmethod
    def key(made: Sequence[Made]) -> str:
        """What a page remembers of a call of `make`, to show it again."""
        return made[0].glb.parent.name

    def show(self, key: str, percentile: float, chosen: int | None = None) -> list[Path]:
        """New GLB files of what `make` made: other points dropped, a camera that stands out. QvggtError when it is too
        long ago."""
        if key not in self.made:
            raise QvggtError("this reconstruction is not in memory any more; press Reconstruct again")
        files = []
        with self.lock:
            for index, made in enumerate(self.made[key]):
                scene, folder = made.result.scene, Path(tempfile.mkdtemp(dir=made.glb.parent))
                size = made.result.frames.size
                files.append(folder / made.glb.name)
                cloud = made.cloud(percentile)
                write_glb(files[-1], cloud, scene.extrinsics, scene.intrinsics, size, chosen)
                self.made[key][index] = replace(made, result=replace(made.result, cloud=cloud))
        return files

    def examples(self) -> dict[str, list[Path]]:
        """Generated scenes, drawn when first asked for: name -> images."""
        found = {}
        for name, seed in EXAMPLES.items():
            folder = self.folder / "examples" / name.lower()
            if not folder.is_dir():
                draw_example(folder, seed)
            found[name] = sorted(folder.iterdir())
        return found

    def words(self, error: BaseException, images: Sequence[Path]) -> str:
        """An error as a line for the page: files by the names their owner knows, no temporary path."""
        text = " ".join(str(error).split()) or type(error).__name__
        for path in images:
            text = text.replace(str(path), path.name)
        return text.replace(f"{self.folder}/", "")

    def _make(self, name: str, images: Sequence[Path], config: ReconstructionConfig, plan: ImagePlan) -> Made:
        runner = self.runners[name]
        out = Path(tempfile.mkdtemp(dir=self.folder)) / "scene"
        start = time.perf_counter()
        result = reconstruct_folder(runner, images, out, config, device=self.device, images=plan)
        seconds = time.perf_counter() - start
        glb = out.parent / f"{_safe(name)}.glb"
        shutil.move(out / "scene.glb", glb)
        _name_sources(out / "cameras.json", images)
        archive = zip_folder(out, out.parent / f"{_safe(name)}-colmap.zip", ("images", BINARY, "cameras.json"))
        shutil.rmtree(out)
        return Made(name, glb, archive, seconds, sum(file.bytes for file in runner.files), result, config)

    def check(self, images: Sequence[Path]) -> None:
        if not images:
            raise QvggtError("images: drop at least one image first")
        count = len(images) if len(images) > self.limits.images else len(find_images(images))  # an animation has many
        if count > self.limits.images:
            raise QvggtError(
                f"images: expected at most {self.limits.images} at a time, got {count}; use qvggt reconstruct for more"
            )
        for path in images:
            size = path.stat().st_size
            if size > self.limits.megabytes * 1_000_000:
                raise QvggtError(
                    f"{path.name}: has {size / 1e6:.1f} MB, expected at most {self.limits.megabytes} MB per image"
                )


def draw_example(folder: Path, seed: int) -> None:
    """The images of a generated scene, such as the tiny model has learned."""
    from PIL import Image

    from qvggt.data.synthetic.render import render
    from qvggt.data.synthetic.scene import SceneConfig, sample_scene

    config = SceneConfig(height=EXAMPLE_SIDE, width=EXAMPLE_SIDE, frames=EXAMPLE_FRAMES)
    folder.mkdir(parents=True)
    for index, image in enumerate(render(sample_scene(config, seed), config).images, start=1):
        Image.fromarray(image).save(folder / f"{folder.name}-{index}.png")


def _name_sources(path: Path, images: Sequence[Path]) -> None:
    """The cameras' sources are uploads in a temporary folder: their names will do."""
    text = path.read_text(encoding="utf-8")
    for image in images:
        text = text.replace(json.dumps(str(image)), json.dumps(image.name))
    path.write_text(text, encoding="utf-8")


def zip_folder(folder: Path, path: Path, parts: Sequence[str]) -> Path:
    """The files and folders `parts` of `folder` as an archive; pictures are stored as they are, the rest is packed."""
    with zipfile.ZipFile(path, "w") as archive:
        for part in parts:
            inside = folder / part
            for file in sorted(inside.rglob("*")) if inside.is_dir() else [inside]:
                if file.is_file():
                    packed = zipfile.ZIP_STORED if part == "images" else zipfile.ZIP_DEFLATED
                    entry = zipfile.ZipInfo(str(file.relative_to(folder)), ZIP_TIME)
                    archive.writestr(entry, file.read_bytes(), packed)
    return path


def describe(made: Made) -> list[tuple[str, str]]:
    """Rows (what, value) about one reconstruction."""
    return [
        ("points shown", f"{len(made.result.cloud):,}"),
        ("cameras", str(len(made.result.photos))),
        ("network", made.result.facts["network"]["label"]),
        ("it saw", made.result.facts["seen"].removeprefix("images: ")),
        ("network's files", f"{made.bytes / 1e6:.1f} MB"),
        ("time, this machine", f"{made.seconds:.2f} s"),
    ]


def differences(first: Made, second: Made) -> list[tuple[str, str]]:
    """Rows (what, value) on how far the second reconstruction is from the first one, which counts as the reference.

    Camera errors are those of qvggt eval, over all pairs of images; depth is compared after scaling by the median
    ratio, since the unit of length is arbitrary.
    """
    a, b = first.result.scene, second.result.scene
    rows: list[tuple[str, str]] = []
    if len(a.extrinsics) > 1 and len(a.extrinsics) == len(b.extrinsics):
        errors = pairwise_errors(b.extrinsics, a.extrinsics)
        rows.append(("rotation between cameras, mean", f"{errors.rotation_deg.mean():.2f} degrees"))
        rows.append(("direction between cameras, mean", f"{errors.translation_deg.mean():.2f} degrees"))
    if a.depth is not None and b.depth is not None and a.depth.shape == b.depth.shape:
        inside = first.result.frames.inside()
        good = inside & np.isfinite(a.depth) & np.isfinite(b.depth) & (a.depth > 0) & (b.depth > 0)
        if good.any():
            ratio = b.depth[good].astype(np.float64) / a.depth[good]
            scale = float(np.median(ratio))
            rows.append(("depth, median difference", f"{np.median(np.abs(ratio / scale - 1)):.2%}"))
            rows.append(("unit of length, ratio", f"{scale:.4f}"))
    return rows


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
