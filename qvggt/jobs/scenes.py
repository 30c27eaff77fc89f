"""Scenes: generated multi-view scenes in Co3D format."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from qvggt.errors import QvggtError
from qvggt.jobs.job import Doc, Job, Place, Result
from qvggt.jobs.words import sides
from qvggt.mapping import at_least
from qvggt.progress import Console


@dataclass(frozen=True)
class ScenesResult(Result):
    """What was written. rendered: scenes made now; reused: those an earlier call had finished."""

    root: Path
    annotations: Path
    train: int
    test: int
    rendered: int
    reused: int

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {**asdict(self), "root": str(self.root), "annotations": str(self.annotations)}


@dataclass(frozen=True)
class ScenesJob(Job[ScenesResult]):
    """Generate scenes in Co3D format.

    Render textured objects on a ground plane with exact cameras and depth, in real Co3Dv2 layout.

    The same options give the same bytes. Repeating an interrupted call keeps the scenes that are finished.
    """

    name: ClassVar[str] = "scenes"
    examples: ClassVar[tuple[str, ...]] = (
        "qvggt scenes outputs/scenes",
        "qvggt scenes outputs/scenes --train 64 --test 256 --frames 8 --size 70",
    )

    out: Annotated[Place, Doc("Root to write: OUT/CATEGORY/..., annotations in OUT/annotations.", argument=True)]
    _: KW_ONLY
    category: Annotated[str, Doc("Name of the category folder.")] = "synthetic"
    train: Annotated[int, Doc("Training scenes."), at_least(0)] = 16
    test: Annotated[int, Doc("Test scenes, of other seeds than the training scenes."), at_least(0)] = 32
    frames: Annotated[int, Doc("Frames per scene."), at_least(1)] = 8
    size: Annotated[
        tuple[int, int], Doc("Image size in pixels: one side, or HxW.", parse=sides, default="70", metavar="HxW")
    ] = (70, 70)
    seed: Annotated[int, Doc("Seed of the first scene; the others follow."), at_least(0)] = 0
    family: Annotated[
        Literal["random", "room"],
        Doc("random: nothing is shared between scenes. room: one room, which a model can learn."),
    ] = "random"
    workers: Annotated[int, Doc("Processes that render."), at_least(1)] = 1

    def check(self) -> None:
        from qvggt.data.synthetic.seeds import ROOM

        if self.seed + max(self.train, self.test) > ROOM:
            raise QvggtError(f"--seed {self.seed}: expected seed + scenes <= {ROOM}, beyond are seeds of another split")

    def unfinished(self) -> tuple[Path, ...]:
        return (Path(self.out) / self.category,)

    def execute(self, console: Console) -> ScenesResult:
        from qvggt.data.co3d_writer import write_co3d
        from qvggt.data.synthetic.scene import SceneConfig
        from qvggt.data.synthetic.seeds import TEST_SEEDS, TRAIN_SEEDS

        height, width = self.size
        train, test = (
            range(base + self.seed, base + self.seed + count)
            for base, count in ((TRAIN_SEEDS, self.train), (TEST_SEEDS, self.test))
        )
        config = SceneConfig(height=height, width=width, family=self.family, frames=self.frames)
        try:
            written = write_co3d(Path(self.out), config, train, test, category=self.category, workers=self.workers)
        except OSError as error:
            raise QvggtError(
                f"{self.out}: cannot be written ({error.strerror or error}); choose another place"
            ) from error
        console.result(
            f"{written.root}: {self.train} train + {self.test} test scenes of {self.frames} frames, {height}x{width} "
            f"({written.rendered} rendered, {written.reused} reused); annotations in {written.annotations}"
        )
        return ScenesResult(written.root, written.annotations, self.train, self.test, written.rendered, written.reused)
