"""Which folds a model gets: one frozen, JSON-serialisable object."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from qvggt.errors import QvggtError

VERSION = 1


@dataclass(frozen=True)
class FoldConfig:
    """Folds of DESIGN 3.1 and 3.2; the structure of a folded model follows from this object and the model's config.

    seed: of every rotation, >= 0. residual: rotate the residual streams of the patch encoder and of the aggregator.
    layer_scale: multiply every LayerScale, the camera trunk's too, into the linear before it; `residual` needs this,
    as a gain per channel does not survive a change of basis. value: rotate the value channels of each head of the
    patch encoder and the aggregator; camera_value: of the camera trunk.
    """

    seed: int = 0
    residual: bool = True
    layer_scale: bool = True
    value: bool = True
    camera_value: bool = False
    version: int = VERSION

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), int if field.name in ("seed", "version") else bool
            if type(value) is not kind:  # True is an int, but no seed
                raise QvggtError(f"fold config: key {field.name!r} expected {kind.__name__}, got {value!r}")
        if self.seed < 0:
            raise QvggtError(f"fold config: seed {self.seed}, expected 0 or more")
        if self.residual and not self.layer_scale:
            raise QvggtError("fold config: residual needs layer_scale, got false; fold both or neither")
        if self.version != VERSION:
            raise QvggtError(
                f"fold config: version {self.version}, expected {VERSION}; update qvggt or calibrate again"
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FoldConfig:
        """Rebuild from `to_dict`'s mapping; an unknown key is an error, a missing one takes its default."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise QvggtError(f"fold config: unknown key {unknown[0]!r}, expected {', '.join(sorted(known))}")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> FoldConfig:
        try:
            values = json.loads(text)
        except ValueError as error:
            raise QvggtError(f"fold config: not JSON ({error})") from error
        if not isinstance(values, dict):
            raise QvggtError(f"fold config: expected a JSON object, got {type(values).__name__}")
        return cls.from_dict(values)
