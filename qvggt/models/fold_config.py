"""Which folds a model gets: one frozen, JSON-serialisable object."""

from __future__ import annotations

from dataclasses import dataclass

from qvggt.errors import QvggtError

VERSION = 1


@dataclass(frozen=True)
class FoldConfig:
    """Folds of DESIGN 3.1 and 3.2; the structure of a folded model follows from this object and the model's config.

    seed: of every rotation, >= 0. residual: rotate the residual streams of the patch encoder and of the aggregator.
    layer_scale: multiply every LayerScale, the camera trunk's too, into the linear before it; `residual` needs this,
    as a gain per channel does not survive a change of basis. value: rotate the value channels of each head of the
    patch encoder and the aggregator; camera_value: of the camera trunk. block: nothing; files of rotations within
    blocks of channels, which there are no more, have a number there, and reading them fails.
    """

    seed: int = 0
    residual: bool = True
    layer_scale: bool = True
    value: bool = True
    camera_value: bool = False
    block: None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise QvggtError(f"fold config: seed {self.seed}, expected 0 or more")
        if self.residual and not self.layer_scale:
            raise QvggtError("fold config: residual needs layer_scale, got false; fold both or neither")
        if self.version != VERSION:
            raise QvggtError(
                f"fold config: version {self.version}, expected {VERSION}; update qvggt or calibrate again"
            )
