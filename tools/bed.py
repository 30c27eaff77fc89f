"""The bed a bench stands on: a float model, and generated scenes of its size that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import typer
from held_out import CALIBRATION_SEED, FAMILIES, HELD_OUT_SEED, images_of, scene_config, scenes_in
from scene_split import SceneSplit
from torch import Tensor

from qvggt.data.synthetic.scene import SceneConfig
from qvggt.files import file_sha256
from qvggt.hub.loading import load_model
from qvggt.hub.names import find_weights
from qvggt.models.network import Network

BEDS = Path(__file__).resolve().parent / "beds"
BED = "small"  # what tables are of
Model = Annotated[
    str, typer.Option("--model", help="Float model: small (in tools/beds), tiny (shipped with the package), or a path.")
]
Family = Annotated[
    str | None,
    typer.Option("--family", help=f"Of the scenes: {', '.join(FAMILIES)}. [that of the model's training, by its size]"),
]


@dataclass(frozen=True)
class Bed:
    """model: name or path as given; scenes: those it is judged on, at its own image size."""

    model: str
    scenes: SceneConfig

    @classmethod
    def of(cls, model: str, family: str | None = None, frames: int | None = None) -> Bed:
        """Scenes of the model's image size, and of its training's family and frames unless given. QvggtError as
        `find_weights` and `scene_config` raise it."""
        return cls(model, scene_config(load_model(find(model)).config.img_size, family, frames))

    @property
    def size(self) -> int:
        """Pixels of the scenes' sides."""
        return self.scenes.height

    @property
    def path(self) -> Path:
        """The weights file."""
        return find(self.model)

    @cached_property
    def weights(self) -> str:
        """Start of the SHA-256 of the weights file."""
        return file_sha256(self.path)[:16]

    def load(self) -> Network:
        """The float model, afresh."""
        return load_model(self.path)

    def folder(self, bench: str) -> Path:
        """Where a bench keeps its scenes and rows: outputs/BENCH/MODEL."""
        named = Path(self.model)
        return Path("outputs", bench, named.parent.name if named.stem == "model" else named.stem)

    def held_out(self, folder: Path, count: int, seed: int = HELD_OUT_SEED, workers: int = 2) -> SceneSplit:
        """`count` scenes to judge on."""
        return scenes_in(folder, seed, count, self.scenes, workers)

    def calibration(self, folder: Path, count: int, workers: int = 2) -> list[Tensor]:
        """`count` other scenes to calibrate on, their first frames, [S, 3, H, W] each."""
        pool = scenes_in(folder, CALIBRATION_SEED, count, self.scenes, workers)
        return [images_of(pool, index) for index in range(count)]


def find(model: str) -> Path:
    """Weights of a model by its name or path."""
    kept = BEDS / model
    return find_weights(str(kept) if (kept / "model.safetensors").is_file() else model)
