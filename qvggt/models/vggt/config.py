"""Architecture of a VGGT: one frozen, JSON-serialisable description."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from qvggt.errors import QvggtError
from qvggt.mapping import Check, from_mapping

if TYPE_CHECKING:
    from qvggt.models.dpt import DPTConfig

HEADS = ("camera", "point", "depth", "track")


def _from(low: int, high: int = 1 << 16) -> Check:
    """Bounds that refuse a damaged config before it takes all memory."""
    return Check(f"an integer from {low} to {high}", lambda value: low <= value <= high)


Size = Annotated[int, _from(1)]
MaybeNone = Annotated[int, _from(0)]
Depth = Annotated[int, _from(1, 1024)]
Real = Annotated[float, Check("a finite number", math.isfinite)]


@dataclass(frozen=True)
class TrackConfig:
    """Track head sizes (spec/track_head.md section 1)."""

    features: Size = 128
    iters: Size = 4
    stride: Size = 2
    corr_levels: Size = 7
    corr_radius: MaybeNone = 4
    hidden_size: Size = 384
    depth: Depth = 6
    num_heads: Size = 8
    mlp_ratio: Size = 4
    virtual_tracks: MaybeNone = 64
    max_scale: Size = 518

    def __post_init__(self) -> None:
        if self.features % 4:
            raise QvggtError(
                f"model config: track.features {self.features} must be divisible by 4 (sin/cos of x and y)"
            )
        if self.hidden_size % self.num_heads:
            raise QvggtError(
                f"model config: track.hidden_size {self.hidden_size} must split into {self.num_heads} heads"
            )


@dataclass(frozen=True)
class VGGTConfig:
    """Sizes of every part; the defaults are the released VGGT-1B (spec/vggt.md 1.1-1.9).

    `dpt_layers` are the aggregator rounds the DPT heads read; the camera head reads the last round.
    `heads` lists the heads the model is built with, a subset of `HEADS`.
    """

    family: ClassVar[str] = "vggt"
    img_size: Size = 518
    patch_size: Size = 14
    embed_dim: Size = 1024
    vit_depth: Depth = 24
    aa_depth: Depth = 24
    num_heads: Size = 16
    mlp_ratio: Size = 4
    num_register_tokens: MaybeNone = 4
    rope_base: Real = 100.0
    vit_layer_scale: Real = 1.0
    layer_scale: Real = 0.01
    camera_trunk_depth: Depth = 4
    camera_num_heads: Size = 16
    camera_iters: Size = 4
    dpt_features: Size = 256
    dpt_out_channels: tuple[Size, Size, Size, Size] = (256, 512, 1024, 1024)
    dpt_layers: tuple[MaybeNone, MaybeNone, MaybeNone, MaybeNone] = (4, 11, 17, 23)
    dpt_head_channels: Size = 32
    heads: tuple[str, ...] = HEADS
    track: TrackConfig = TrackConfig()

    def __post_init__(self) -> None:
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
    def from_dict(cls, values: object) -> VGGTConfig:
        """Rebuild from `to_json`'s mapping; missing keys take the 1B default. QvggtError names the key."""
        return from_mapping(cls, values, "model config")

    def replace(self, **changes: Any) -> VGGTConfig:
        return dataclasses.replace(self, **changes)


VGGT_1B = VGGTConfig()
