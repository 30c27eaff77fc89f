"""What a calibration will cost, measured on this machine before any work (memory, disk, time)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from qvggt.calib.calibrate import fold_config
from qvggt.calib.recipe import Recipe
from qvggt.calib.reconstruct import LINEARS, calibrate_block
from qvggt.calib.stream import Kind, Stage, Stream, TokenStore
from qvggt.model.block import Block
from qvggt.model.config import VGGTConfig
from qvggt.model.rope import rope_tables
from qvggt.quant.scheme import Scheme

PATHS: dict[Kind, str] = {
    "dino": "aggregator.patch_embed.blocks.0",
    "frame": "aggregator.frame_blocks.0",
    "global": "aggregator.global_blocks.0",
}


@dataclass(frozen=True)
class Plan:
    """Estimates for a whole calibration.

    seconds: per kind of block, for all sequences and epochs, extrapolated from a dry run with random weights on one
    sequence. token_bytes: of all token streams. block_bytes: one float block, its copy and its moments.
    """

    blocks: dict[Kind, int]
    seconds: dict[Kind, float]
    token_bytes: int
    block_bytes: int
    model_bytes: int

    @property
    def total_seconds(self) -> float:
        return sum(self.blocks[kind] * self.seconds[kind] for kind in self.blocks)

    def lines(self, memory: int) -> list[str]:
        """Text for a terminal; `memory` is the bytes of tokens that may stay in RAM."""
        spilled = max(0, self.token_bytes - memory)
        peak = self.model_bytes + 3 * self.block_bytes + min(self.token_bytes, memory)
        per_kind = ", ".join(f"{self.blocks[k]} {k} blocks at {self.seconds[k]:.1f} s" for k in self.blocks)
        return [
            f"time: about {self.total_seconds / 60:.1f} min ({per_kind}; dry run with random weights on this machine)",
            f"memory: about {peak / 1e9:.2f} GB (model {self.model_bytes / 1e9:.2f}, tokens in RAM up to "
            f"{min(self.token_bytes, memory) / 1e9:.2f})",
            f"disk: {spilled / 1e9:.2f} GB of spilled tokens, and the checkpoint",
        ]


def make_plan(
    config: VGGTConfig, scheme: Scheme, recipe: Recipe, sequences: int, frames: int, height: int, width: int
) -> Plan:
    """Dry-run one block of each kind with random weights on one random sequence and extrapolate."""
    rows, cols = height // config.patch_size, width // config.patch_size
    tokens = config.patch_start + rows * cols
    dim = config.embed_dim
    seconds: dict[Kind, float] = {}
    block_bytes = 0
    short = recipe.replace(epochs=1, batch=1)
    for kind, path in PATHS.items():
        stage = Stage(path, kind)
        block = Block(dim, config.num_heads, config.mlp_ratio, 1.0, qk_norm=kind != "dino").requires_grad_(False)
        if fold_config(recipe, 0) is not None:
            block.ls1, block.ls2 = torch.nn.Identity(), torch.nn.Identity()
        block_bytes = sum(p.numel() * p.element_size() for p in block.parameters())
        stream = Stream(TokenStore(), [], [])
        stream.tokens.append(torch.randn(frames, tokens, dim, generator=torch.Generator().manual_seed(0)))
        stream.ropes.append(rope_tables(rows, cols, dim // config.num_heads, config.patch_start, config.rope_base))
        stream.frames.append(frames)
        formats = {n: f for n in LINEARS if (f := scheme.format(f"{path}.{n}")) is not None}
        if not formats:
            seconds[kind] = 0.0
            continue
        learning = _timed(block, stage, formats, stream, short) if recipe.learns(formats.values()) else 0.0
        rest = _timed(block, stage, formats, stream, short.replace(learn=False))
        seconds[kind] = sequences * (rest + recipe.epochs * max(0.0, learning - rest))
    streams = 1 if recipe.propagation == "float" else 2
    count = {"dino": config.vit_depth, "frame": config.aa_depth, "global": config.aa_depth}
    parameters = (config.vit_depth + 2 * config.aa_depth) * block_bytes
    return Plan(
        blocks=count,  # type: ignore[arg-type]
        seconds=seconds,
        token_bytes=streams * sequences * frames * tokens * dim * 4,
        block_bytes=block_bytes,
        model_bytes=parameters,
    )


def _timed(block: Block, stage: Stage, formats: dict, stream: Stream, recipe: Recipe) -> float:  # type: ignore[type-arg]
    start = time.perf_counter()
    calibrate_block(block, stage, formats, stream, stream, recipe, 0)
    return time.perf_counter() - start
