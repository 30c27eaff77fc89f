"""VGGT's description: where everything is that calibration, folds, export and gates ask for (spec/vggt.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from qvggt.models.family import (
    AddedLinear,
    Family,
    Head,
    MemoryFacts,
    ModelConfig,
    Part,
    Reader,
    ResidualStream,
    Stage,
    TokenLayout,
)
from qvggt.models.vggt.config import VGGT_1B, VGGTConfig
from qvggt.predictions import CAMERAS, DEPTH, DEPTH_CONFIDENCE, POINTS, POINTS_CONFIDENCE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qvggt.models.block import Block, Rope
    from qvggt.models.network import Network
    from qvggt.models.vggt.network import VGGT

ENCODER, FRAME, GLOBAL = "aggregator.patch_embed", "aggregator.frame_blocks", "aggregator.global_blocks"
PATCH_ROTATION, TOKEN_ROTATION = "aggregator.patch_rotation", "camera_head.token_rotation"
GRID = "grid"  # patch (y, x) at (y + 1, x + 1), special tokens at (0, 0)

DPT_CONVS = (
    *(f"projects.{i}" for i in range(4)),
    *(f"resize_layers.{i}" for i in (0, 1, 3)),
    *(f"scratch.layer{i}_rn" for i in range(1, 5)),
    *(f"scratch.refinenet{i}.resConfUnit{u}.conv{c}" for i in range(1, 5) for u in (1, 2) for c in (1, 2)),
    *(f"scratch.refinenet{i}.out_conv" for i in range(1, 5)),
    "scratch.output_conv1",
    # output_conv2 stays float: 0.1 % of a head's weights, and what it returns is exponentiated; an 8-bit grid after its
    # first convolution alone took depth from 49 to 32 dB
)
"""Convolutions of a dense head that a scheme can quantize (refinenet4 has no resConfUnit1)."""

REST = (
    PATCH_ROTATION,
    TOKEN_ROTATION,
    "camera_head.poseLN_modulation.1",
    # not pose_branch: it returns the pose, of which its 8 bits cost 5 dB; nor embed_pose, which reads 9 numbers
)
"""Linears beside the blocks. They see one token per frame or run once, so a wide format costs nothing."""

# fp32 in every half type: four refinements of one small vector per frame, the image's grey levels, and what is
# exponentiated at the end of a dense head
ALWAYS_FP32 = r"camera_head\.|aggregator\.patch_embed\.patch_embed\.|\w+_head\.scratch\.output_conv2\.2"


class VGGTFamily(Family):
    name = "vggt"
    title = "VGGT"
    patch_size = VGGT_1B.patch_size
    assumed = ("VGGT-1B", VGGT_1B)
    trunk = "aggregator"
    parts = (
        Part("dino", (f"{ENCODER}.blocks",), default=True),
        Part("aggregator", (FRAME, GLOBAL), default=True),
        Part("camera", ("camera_head.trunk",)),
        Part("dpt", ("depth_head", "point_head"), DPT_CONVS),
        Part("rest", layers=REST, stems=(f"{ENCODER}.patch_embed.proj",)),
    )
    heads = (
        Head("camera", "camera_head", (CAMERAS,), "pose"),
        Head("point", "point_head", (POINTS, POINTS_CONFIDENCE), "points"),
        Head("depth", "depth_head", (DEPTH, DEPTH_CONFIDENCE), "depth"),
        Head("track", "track_head"),
    )
    override_example = "camera_head.trunk.*"

    def island(self, float_type: str) -> re.Pattern[str]:
        # opset 21 has no bf16 convolution, and 8 bits of mantissa are too few for a depth map
        return re.compile(ALWAYS_FP32 + (r"|(depth|point)_head\." if float_type == "bf16" else ""))

    def config(self, values: object) -> VGGTConfig:
        return VGGTConfig.from_dict(values)

    def stages(self, config: ModelConfig) -> tuple[Stage, ...]:
        sizes = cast(VGGTConfig, config)
        special = sizes.patch_start  # the class token and the encoder's registers, then the camera token and others
        alone, apart = TokenLayout(special), TokenLayout(special, first_apart=True)
        blocks = range(sizes.vit_depth)
        stages = [Stage(f"{ENCODER}.blocks.{i}", "dino", "frame", "patch encoder", alone) for i in blocks]
        for i in range(sizes.aa_depth):
            stages.append(Stage(f"{FRAME}.{i}", "frame", "frame", "aggregator", apart, GRID, enters=i == 0))
            stages.append(Stage(f"{GLOBAL}.{i}", "global", "global", "aggregator", apart, GRID))
        return tuple(stages)

    def streams(self, config: ModelConfig) -> tuple[ResidualStream, ...]:
        embeddings = ("cls_token", "pos_embed", "register_tokens", "mask_token")
        encoder = ResidualStream(
            "patch encoder",
            writers=(f"{ENCODER}.patch_embed.proj",),
            vectors=tuple(f"{ENCODER}.{name}" for name in embeddings),
            readers=(Reader((PATCH_ROTATION,), f"{ENCODER}.norm"),),
        )
        both = (True, True)  # the heads read a frame block's output beside a global block's
        readers = [Reader((TOKEN_ROTATION,), "camera_head.token_norm", both)] if "camera" in config.heads else []
        paths = {"depth": "depth_head", "point": "point_head", "track": "track_head.feature_extractor"}
        for head, path in paths.items():
            if head in config.heads:
                readers.append(Reader(tuple(f"{path}.projects.{i}" for i in range(4)), f"{path}.norm", both))
        tokens = ("aggregator.camera_token", "aggregator.register_token")
        return encoder, ResidualStream("aggregator", (PATCH_ROTATION,), tokens, tuple(readers))

    def added(self, config: ModelConfig) -> tuple[AddedLinear, ...]:
        patch = AddedLinear(PATCH_ROTATION, config.embed_dim, "patch")
        camera = AddedLinear(TOKEN_ROTATION, 2 * config.embed_dim, "frame")
        return (patch, camera) if "camera" in config.heads else (patch,)

    def tokens(self, config: ModelConfig, height: int, width: int) -> int:
        sizes = cast(VGGTConfig, config)
        return sizes.patch_start + (height // sizes.patch_size) * (width // sizes.patch_size)

    def memory(self, config: ModelConfig) -> MemoryFacts:
        sizes = cast(VGGTConfig, config)
        return MemoryFacts(
            sizes.embed_dim, 64, sizes.patch_size, sizes.patch_start, sizes.dpt_features, sizes.dpt_head_channels
        )

    def build(self, config: ModelConfig) -> Network:
        from qvggt.models.vggt.network import VGGT

        return VGGT(cast(VGGTConfig, config))

    def block(self, config: ModelConfig, stage: Stage) -> Block:
        from qvggt.models.block import Block

        return Block(config.embed_dim, config.num_heads, config.mlp_ratio, 1.0, qk_norm=stage.positions is not None)

    def positions(
        self, config: ModelConfig, height: int, width: int, device: torch.device | None = None
    ) -> Mapping[str, Rope]:
        from qvggt.models.rope import rope_tables

        sizes = cast(VGGTConfig, config)
        rows, cols = height // sizes.patch_size, width // sizes.patch_size
        head = sizes.embed_dim // sizes.num_heads
        return {GRID: rope_tables(rows, cols, head, sizes.patch_start, sizes.rope_base, device)}

    def embed(self, network: Network, images: Tensor) -> Tensor:
        aggregator = cast("VGGT", network).aggregator
        return aggregator.patch_embed.embed(aggregator.normalise(images[None]))

    def enter(self, network: Network, stage: Stage, tokens: Tensor) -> Tensor:
        aggregator = cast("VGGT", network).aggregator
        return aggregator.join(aggregator.patch_embed.patches(tokens), 1, len(tokens))[0].contiguous()

    def last_tokens(self, network: Network, images: Tensor) -> Tensor:
        kept = cast("VGGT", network).aggregator(images[None])
        return kept[max(kept)][0]


FAMILY = VGGTFamily()
