"""What the page does when a button is pressed, without the page: pictures and a network in, files and figures out."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qvggt.data.photos import find_images
from qvggt.engines.runner import Runner
from qvggt.errors import QvggtError
from qvggt.eval.ground_truth import ImagePlan, plan_images
from qvggt.eval.pose import pairwise_errors
from qvggt.eval.reconstruction.colmap import BINARY
from qvggt.eval.reconstruction.config import ReconstructionConfig
from qvggt.eval.reconstruction.folder import Result, reconstruct_folder

MAX_POINTS = 300_000  # a browser turns them smoothly
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


class Workshop:
    """Runs reconstructions one at a time. Keeps the runners it opened, and a folder of results that `close` deletes."""

    def __init__(self, choices: Sequence[Choice], limits: Limits | None = None, device: str | None = None) -> None:
        if not choices:
            raise QvggtError("demo: expected at least one model or engine")
        names = [choice.name for choice in choices]
        if len(set(names)) < len(names):
            raise QvggtError(f"demo: expected networks of different names, got {', '.join(names)}")
        self.choices = {choice.name: choice for choice in choices}
        self.limits, self.device = limits or Limits(), device
        self.folder = Path(tempfile.mkdtemp(prefix="qvggt-demo-"))
        self.runners: dict[str, Runner] = {}
        self.lock = threading.Lock()

    def close(self) -> None:
        """Free the networks and delete every result."""
        for runner in self.runners.values():
            runner.close()
        self.runners.clear()
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
            plan = plan_images([self.runners[name] for name in names])
            return [self._make(name, images, config, plan) for name in names]

    def _make(self, name: str, images: Sequence[Path], config: ReconstructionConfig, plan: ImagePlan) -> Made:
        runner = self.runners[name]
        out = Path(tempfile.mkdtemp(dir=self.folder)) / "scene"
        start = time.perf_counter()
        result = reconstruct_folder(runner, images, out, config, device=self.device, images=plan)
        seconds = time.perf_counter() - start
        glb = out.parent / f"{_safe(name)}.glb"
        shutil.move(out / "scene.glb", glb)
        archive = zip_folder(out, out.parent / f"{_safe(name)}-colmap.zip", ("images", BINARY, "cameras.json"))
        shutil.rmtree(out)
        return Made(name, glb, archive, seconds, sum(file.bytes for file in runner.files), result)

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
