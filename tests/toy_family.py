"""A model family that lies outside the package, with what VGGT has not and Depth Anything 3 has (spec/da3.md).

One list of blocks in one residual stream of a width that is no power of four; the class token gives way to camera
tokens half-way; heads read two blocks' outputs, one with the last norm and one without; no register tokens, and other
outputs.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qvggt.models.block import Block, Rope
from qvggt.models.family import (
    AddedLinear,
    Family,
    Head,
    MemoryFacts,
    Part,
    Reader,
    ResidualStream,
    Stage,
    TokenLayout,
)
from qvggt.models.network import Network
from qvggt.models.rope import rope_tables


@dataclass(frozen=True)
class ToyConfig:
    family: ClassVar[str] = "toy"
    img_size: int = 16
    patch_size: int = 4
    embed_dim: int = 24
    depth: int = 6
    alternate: int = 2  # first block with positions and camera tokens
    num_heads: int = 2
    mlp_ratio: int = 2
    heads: tuple[str, ...] = ("cameras", "rays")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def replace(self, **changes: Any) -> ToyConfig:
        return dataclasses.replace(self, **changes)


class Backbone(nn.Module):
    """Images [B, S, 3, H, W] -> (tokens [B, S, P, 2C] before the last norm, the same after it)."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        c = config.embed_dim
        self.proj = nn.Conv2d(3, c, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, c))
        self.camera_token = nn.Parameter(torch.randn(2, c))
        self.blocks = nn.ModuleList(FAMILY.block(config, stage) for stage in FAMILY.stages(config))
        self.norm = nn.LayerNorm(c)
        self.back: nn.Linear | None = None  # only in folded models: the normed half out of the rotated basis

    def embed(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, P, C]."""
        tokens = self.proj(images - 0.5).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)

    def enter(self, tokens: Tensor) -> Tensor:
        """[B, S, P, C]: the first frame's token 0 becomes one camera token, all others' the other."""
        rows = self.camera_token[torch.arange(tokens.shape[1]).clamp(max=1)][:, None].expand(len(tokens), -1, -1, -1)
        return torch.cat([rows, tokens[:, :, 1:]], dim=2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        b, s, _, height, width = images.shape
        tokens = self.embed(images.flatten(0, 1))
        ropes = FAMILY.positions(self.config, height, width, images.device)
        local = tokens
        for stage, block in zip(FAMILY.stages(self.config), self.blocks, strict=True):
            if stage.enters:
                tokens = self.enter(tokens.unflatten(0, (b, s))).flatten(0, 1)
            rope = None if stage.positions is None else ropes[stage.positions]
            if stage.view == "global":
                tokens = block(tokens.view(b, -1, tokens.shape[-1]), rope).view(tokens.shape)
            else:
                tokens = local = block(tokens, rope)
        normed = self.norm(tokens) if self.back is None else self.back(self.norm(tokens))
        raw, out = torch.cat([local, tokens], -1), torch.cat([local, normed], -1)
        return raw.unflatten(0, (b, s)), out.unflatten(0, (b, s))


class Toy(Network):
    config: ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        c = config.embed_dim
        self.backbone = Backbone(config)
        self.cameras = nn.Linear(2 * c, 9)
        self.rays = nn.Sequential(nn.LayerNorm(2 * c), nn.Linear(2 * c, config.patch_size**2))

    def forward(self, images: Tensor, query_points: Tensor | None = None) -> dict[str, Tensor]:
        images = images[None] if images.dim() == 4 else images
        raw, out = self.backbone(images)
        b, s, _, height, width = images.shape
        maps = self.rays(out[:, :, 1:]).flatten(0, 1).transpose(1, 2)
        maps = nn.functional.fold(maps, (height, width), self.config.patch_size, stride=self.config.patch_size)
        return {"pose_enc": self.cameras(raw[:, :, 0]), "depth": maps.view(b, s, height, width, 1).exp()}


class ToyFamily(Family):
    name = "toy"
    title = "Toy"
    patch_size = 4
    assumed = ("Toy", ToyConfig())
    trunk = "backbone"
    parts = (Part("backbone", ("backbone.blocks",), default=True),)
    heads = (Head("cameras", "cameras", ("pose_enc",), "pose"), Head("rays", "rays", ("depth",), "depth"))
    override_example = "backbone.blocks.0.*"

    def island(self, float_type: str) -> re.Pattern[str]:
        return re.compile(r"cameras|rays\.")

    def config(self, values: Any) -> ToyConfig:
        return ToyConfig(**{**values, "heads": tuple(values["heads"])})

    def stages(self, config: Any) -> tuple[Stage, ...]:
        found = []
        for i in range(config.depth):
            path, late = f"backbone.blocks.{i}", i >= config.alternate
            together = late and i % 2 == 1
            group = ("all" if together else "each") if late else "early"
            layout, positions = TokenLayout(1, first_apart=late), ("flat" if together else "grid") if late else None
            view = "global" if together else "frame"
            found.append(Stage(path, group, view, "backbone", layout, positions, enters=i == config.alternate))
        return tuple(found)

    def streams(self, config: Any) -> tuple[ResidualStream, ...]:
        readers = (
            Reader(("backbone.back",), "backbone.norm"),
            Reader(("rays.1",), "rays.0", (True, False)),
            Reader(("cameras",), None, (True, True)),
        )
        vectors = ("backbone.cls_token", "backbone.camera_token")
        return (ResidualStream("backbone", ("backbone.proj",), vectors, readers),)

    def added(self, config: Any) -> tuple[AddedLinear, ...]:
        return (AddedLinear("backbone.back", config.embed_dim, "patch"),)

    def tokens(self, config: Any, height: int, width: int) -> int:
        return 1 + (height // config.patch_size) * (width // config.patch_size)

    def memory(self, config: Any) -> MemoryFacts:
        return MemoryFacts(config.embed_dim, 12, config.patch_size, 1, 0, 0)

    def build(self, config: Any) -> Network:
        return Toy(config)

    def block(self, config: Any, stage: Stage) -> Block:
        return Block(config.embed_dim, config.num_heads, config.mlp_ratio, 1.0, qk_norm=stage.positions is not None)

    def positions(self, config: Any, height: int, width: int, device: torch.device | None = None) -> Mapping[str, Rope]:
        rows, cols, head = height // config.patch_size, width // config.patch_size, config.embed_dim // config.num_heads
        cos, sin = rope_tables(rows, cols, head, 1, device=device)
        same = torch.tensor([0] + [1] * (rows * cols))  # every patch at (1, 1)
        return {"grid": (cos, sin), "flat": (cos[same], sin[same])}

    def embed(self, network: Any, images: Tensor) -> Tensor:
        return network.backbone.embed(images)

    def enter(self, network: Any, stage: Stage, tokens: Tensor) -> Tensor:
        return network.backbone.enter(tokens[None])[0]

    def last_tokens(self, network: Any, images: Tensor) -> Tensor:
        return network.backbone(images[None])[0][0]


FAMILY = ToyFamily()


def toy_model(seed: int = 0) -> Toy:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Toy(ToyConfig()).requires_grad_(False).eval()
