"""The data of an evaluation: which reader, with which options, and the stored frame list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from qvggt.data.co3d import Co3DConfig
    from qvggt.data.frame_list import FrameList
    from qvggt.data.sequence import SequenceSet

Dataset = Literal["co3d", "7scenes", "nrgbd", "synthetic"]

DATASETS: tuple[str, ...] = get_args(Dataset)
ROOMS = ("7scenes", "nrgbd")
CO3D_FRAMES, CO3D_MIN_FRAMES = 10, 50
SCENE_FRAMES, SCENES = 8, 32  # of generated data
FAST = {"co3d": 20, "7scenes": 1, "nrgbd": 1, "synthetic": 8}  # sequences per category (co3d: as the published script)
STRIDE = 100


@dataclass(frozen=True)
class DataRequest:
    """What the command line says of the data; None: the data set's default."""

    dataset: str
    root: Path | None
    annotations: Path | None
    categories: tuple[str, ...]
    split: str
    frames: int | None
    min_frames: int | None
    max_sequences: int | None
    seed: int
    stride: int | None
    depth: str
    scenes: int | None
    fast: bool
    frame_list: Path | None

    @property
    def room(self) -> bool:
        return self.dataset in ROOMS

    @property
    def generated(self) -> bool:
        """Scenes straight from the generator."""
        return self.dataset == "synthetic" and self.root is None

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured unless asked otherwise."""
        return ("pose", "depth") if self.dataset == "co3d" else ("pose", "depth", "points")

    @property
    def limit(self) -> int | None:
        """Sequences per category."""
        return self.max_sequences or (FAST[self.dataset] if self.fast else None)

    def check(self) -> None:
        """QvggtError for options that do not go together."""
        if self.dataset not in DATASETS:
            raise QvggtError(f"--dataset {self.dataset!r}: expected one of {', '.join(DATASETS)}")
        if self.root is None and self.dataset != "synthetic":
            raise QvggtError(f"Missing option '--root': the folder of the {self.dataset} data")
        if self.scenes is not None and not self.generated:
            raise QvggtError("--scenes: only for --dataset synthetic without --root; limit others by --max-sequences")
        for name, value in (("--stride", self.stride), ("--depth", None if self.depth == "auto" else self.depth)):
            if value is not None and not self.room:
                raise QvggtError(f"{name} {value}: only for --dataset {' and '.join(ROOMS)}")
        if self.depth != "auto" and self.dataset != "7scenes":
            raise QvggtError(f"--depth {self.depth}: only for --dataset 7scenes")


@dataclass(frozen=True)
class Data:
    """The sequences, and the hash of the stored frame list when there is one."""

    sequences: SequenceSet
    stored_sha256: str | None

    def summary(self) -> str:
        """One line."""
        count = len({sequence.category for sequence in self.sequences})
        frames = sorted({len(sequence.image_paths) for sequence in self.sequences})
        shown = str(frames[0]) if len(frames) == 1 else f"{frames[0]} to {frames[-1]}"
        skipped = ", ".join(f"{count} {reason}" for reason, count in self.sequences.skip_counts().items())
        return (
            f"{len(self.sequences)} sequences of {count} {'category' if count == 1 else 'categories'}, "
            f"{shown} frames each, frame list {self.sequences.frame_list().sha256[:12]}"
            + (f"; skipped: {skipped}" if skipped else "")
        )


def render_scenes(request: DataRequest, folder: Path, height: int, width: int) -> None:
    """The first scenes of `qvggt-scenes --test`, in Co3D layout under `folder`."""
    from qvggt.cli.scenes import TEST_SEEDS
    from qvggt.data.co3d_writer import write_co3d
    from qvggt.data.synthetic.scene import SceneConfig

    scenes = request.scenes or (FAST["synthetic"] if request.fast else SCENES)
    frames = request.frames or SCENE_FRAMES
    # a scene's cameras depend on the number of its frames: render a whole scene, then draw from it
    config = SceneConfig(height=height, width=width, frames=max(frames, SCENE_FRAMES))
    write_co3d(folder, config, train=range(0), test=range(TEST_SEEDS, TEST_SEEDS + scenes))


def open_data(request: DataRequest, root: Path) -> Data:
    """Read the sequences under `root`, with the stored frame list if that file exists; else it is written there."""
    path = request.frame_list
    if path is None:
        return Data(_read(request, root, None), None)
    if path.exists():
        from qvggt.data.frame_list import load_frame_list

        frames = load_frame_list(path)
        return Data(_read(request, root, frames), frames.sha256)
    from qvggt.data.frame_list import save_frame_list

    sequences = _read(request, root, None)
    frames = _drawn(request, root, sequences)
    save_frame_list(path, frames)
    return Data(sequences, frames.sha256)


def _read(request: DataRequest, root: Path, frames: FrameList | None) -> SequenceSet:
    if not request.room:
        from qvggt.data.co3d import read_sequences

        return read_sequences(_co3d_config(request, root), frames)
    from qvggt.data.nrgbd import read_nrgbd
    from qvggt.data.rooms import RoomConfig
    from qvggt.data.seven_scenes import read_seven_scenes

    config = RoomConfig(
        root=str(root),
        scenes=request.categories,
        stride=request.stride or STRIDE,
        frames=request.frames,
        max_sequences=request.limit,
        depth=request.depth,  # type: ignore[arg-type]
    )
    return (read_seven_scenes if request.dataset == "7scenes" else read_nrgbd)(config, frames)


def _drawn(request: DataRequest, root: Path, sequences: SequenceSet) -> FrameList:
    """The list to store. Co3D draws for every annotated sequence, whatever part of the data is on this disk."""
    if request.room:
        return sequences.frame_list()
    from qvggt.data.co3d import draw_frame_list

    return draw_frame_list(_co3d_config(request, root))


def _co3d_config(request: DataRequest, root: Path) -> Co3DConfig:
    from qvggt.data.co3d import Co3DConfig

    synthetic = request.dataset == "synthetic"
    frames = request.frames or (SCENE_FRAMES if synthetic else CO3D_FRAMES)
    return Co3DConfig(
        root=str(root),
        annotations=str(request.annotations or root / "annotations"),
        categories=request.categories,
        split=request.split,
        frames=frames,
        min_frames=request.min_frames or (frames if synthetic else CO3D_MIN_FRAMES),
        seed=request.seed,
        max_sequences=request.limit,
    )
