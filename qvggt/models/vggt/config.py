"""Architecture of a VGGT: one frozen, JSON-serialisable description."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from qvggt.models.dpt import DPTConfig

HEADS = ("camera", "point", "depth", "track")
LARGEST = 1 << 16  # of any size, so that a damaged config is refused before it takes all memory
LARGEST_DEPTH = 1024
MAY_BE_ZERO = ("num_register_tokens", "corr_radius", "virtual_tracks", "dpt_layers")


def _check_fields(config: Any, prefix: str = "") -> None:
    """QvggtError for a field that is not of its default's kind, or a size out of range."""
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), field.default
        name = f"model config: {prefix}{field.name}"
        if isinstance(default, tuple):
            if not isinstance(value, tuple) or any(type(item) is not type(default[0]) for item in value):
                raise QvggtError(f"{name} {str(value)[:60]}, expected values like {default}")
            if isinstance(default[0], int) and len(value) != len(default):
                raise QvggtError(f"{name} {str(value)[:60]}, expected {len(default)} numbers")
        elif isinstance(default, float):
            if type(value) not in (int, float) or not math.isfinite(value):
                raise QvggtError(f"{name} {str(value)[:60]}, expected a number")
        elif not isinstance(default, int) and not isinstance(value, type(default)):
            raise QvggtError(f"{name} {str(value)[:60]}, expected an object of sizes")
        for item in value if isinstance(value, tuple) else (value,):
            low = 0 if field.name in MAY_BE_ZERO else 1
            high = LARGEST_DEPTH if field.name.endswith("depth") else LARGEST
            whole = isinstance(default, int) or (isinstance(default, tuple) and isinstance(item, int))
            if whole and not (type(item) is int and low <= item <= high):
                raise QvggtError(f"{name} {str(item)[:60]}, expected an integer from {low} to {high}")


@dataclass(frozen=True)
class TrackConfig:
    """Track head sizes (spec/track_head.md section 1)."""

    features: int = 128
    iters: int = 4
    stride: int = 2
    corr_levels: int = 7
    corr_radius: int = 4
    hidden_size: int = 384
    depth: int = 6
    num_heads: int = 8
    mlp_ratio: int = 4
    virtual_tracks: int = 64
    max_scale: int = 518

    def __post_init__(self) -> None:
        _check_fields(self, "track.")
        if self.features % 4:
            raise QvggtError(
                f"model config: track.features {self.features} must be divisible by 4 (sin/cos of x and y)"
            )
        if self.hidden_size % self.num_heads:
            raise QvggtError(
                f"model config: track.hidden_size {self.hidden_size} must split into {self.num_heads} heads"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrackConfig:
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise QvggtError(f"model config: unknown key track.{unknown[0]}, expected {', '.join(sorted(known))}")
        return cls(**values)


@dataclass(frozen=True)
class VGGTConfig:
    """Sizes of every part; the defaults are the released VGGT-1B (spec/vggt.md 1.1-1.9).

    `dpt_layers` are the aggregator rounds the DPT heads read; the camera head reads the last round.
    `heads` lists the heads the model is built with, a subset of `HEADS`.
    """

    family: ClassVar[str] = "vggt"
    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    vit_depth: int = 24
    aa_depth: int = 24
    num_heads: int = 16
    mlp_ratio: int = 4
    num_register_tokens: int = 4
    rope_base: float = 100.0
    vit_layer_scale: float = 1.0
    layer_scale: float = 0.01
    camera_trunk_depth: int = 4
    camera_num_heads: int = 16
    camera_iters: int = 4
    dpt_features: int = 256
    dpt_out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    dpt_layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    dpt_head_channels: int = 32
    heads: tuple[str, ...] = HEADS
    track: TrackConfig = TrackConfig()

    def __post_init__(self) -> None:
        _check_fields(self)
        unknown = [h for h in self.heads if h not in HEADS]
        if unknown:
            raise QvggtError(f"model config: unknown head {unknown[0]!r}, expected a subset of {', '.join(HEADS)}")
        if self.embed_dim % self.num_heads or (self.embed_dim // self.num_heads) % 4:
            raise QvggtError(
                f"model config: embed_dim {self.embed_dim} must split into {self.num_heads} heads of a width "
                "divisible by 4 (2-D RoPE)"
            )
        if self.patch_size > self.img_size:
            raise QvggtError(f"model config: patch_size {self.patch_size} exceeds img_size {self.img_size}")
        if 2 * self.embed_dim % self.camera_num_heads:
            raise QvggtError(
                f"model config: camera width {2 * self.embed_dim} must split into {self.camera_num_heads} heads"
            )
        if max(self.dpt_layers) >= self.aa_depth:
            raise QvggtError(f"model config: dpt_layers {self.dpt_layers} exceed aa_depth {self.aa_depth}")

    @property
    def patch_start(self) -> int:
        """Index of the first patch token: one camera token, then the registers."""
        return 1 + self.num_register_tokens

    def dpt(self, features: int) -> DPTConfig:
        """Sizes of a dense head of this width, up to its output convolutions."""
        from qvggt.models.dpt import DPTConfig

        width, start = 2 * self.embed_dim, self.patch_start
        return DPTConfig(width, features, self.dpt_out_channels, self.dpt_layers, start, self.patch_size)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VGGTConfig:
        """Rebuild from `to_json`'s mapping; unknown keys are an error, missing ones take the 1B default."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise QvggtError(f"model config: unknown key {unknown[0]!r}, expected {', '.join(sorted(known))}")
        values = dict(values)
        for key in ("dpt_out_channels", "dpt_layers", "heads"):
            if key in values:
                values[key] = tuple(values[key])
        if isinstance(values.get("track"), dict):
            values["track"] = TrackConfig.from_dict(values["track"])
        return cls(**values)

    def replace(self, **changes: Any) -> VGGTConfig:
        return dataclasses.replace(self, **changes)


VGGT_1B = VGGTConfig()
