"""What a calibration will cost, measured on this machine before any work (memory, disk, time)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from qvggt.calib.calibrate import fold_config
from qvggt.calib.recipe import Recipe
from qvggt.calib.reconstruct import LINEARS, STEP_TOKENS, calibrate_block
from qvggt.calib.stream import Kind, Stage, Stream, TokenStore
from qvggt.formats.linear_format import LinearFormat
from qvggt.models.block import Block
from qvggt.models.rope import rope_tables
from qvggt.models.vggt.config import VGGTConfig
from qvggt.progress import bar
from qvggt.quant.scheme import Scheme

PATHS: dict[Kind, str] = {
    "dino": "aggregator.patch_embed.blocks.0",
    "frame": "aggregator.frame_blocks.0",
    "global": "aggregator.global_blocks.0",
}


@dataclass(frozen=True)
class Cost:
    """Of one block: seconds whatever the number of sequences, per sequence, and per sequence and epoch of learning;
    bytes that a learning step of one sequence keeps for its gradients.
    """

    fixed: float
    sequence: float
    epoch: float
    step_bytes: int

    def total(self, sequences: int, epochs: int) -> float:
        return self.fixed + sequences * (self.sequence + epochs * self.epoch)


@dataclass(frozen=True)
class Plan:
    """Estimates for a whole calibration.

    seconds: per kind of block, for all sequences and epochs, extrapolated from a dry run. token_bytes: of all token
    streams. block_bytes: of one float block. step_bytes: what a learning step keeps for its gradients.
    """

    blocks: dict[Kind, int]
    seconds: dict[Kind, float]
    token_bytes: int
    block_bytes: int
    step_bytes: int
    model_bytes: int

    @property
    def total_seconds(self) -> float:
        return sum(self.blocks[kind] * self.seconds[kind] for kind in self.blocks)

    def lines(self, memory: int) -> list[str]:
        """Text for a terminal; `memory` is the bytes of tokens that may stay in RAM."""
        spilled = max(0, self.token_bytes - memory)
        # beside the model: the block's learnable copy, its gradients, two moments of AdamW, moments of the inputs
        peak = self.model_bytes + 6 * self.block_bytes + self.step_bytes + min(self.token_bytes, memory)
        per_kind = ", ".join(f"{self.blocks[k]} {k} blocks at {self.seconds[k]:.1f} s" for k in self.blocks)
        return [
            f"time: about {self.total_seconds / 60:.1f} min ({per_kind}; dry run with random weights on this machine)",
            f"memory: about {peak / 1e9:.2f} GB (model {self.model_bytes / 1e9:.2f}, a learning step "
            f"{self.step_bytes / 1e9:.2f}, tokens in RAM up to {min(self.token_bytes, memory) / 1e9:.2f})",
            f"disk: {spilled / 1e9:.2f} GB of spilled tokens, and the checkpoint",
        ]


def make_plan(
    config: VGGTConfig,
    scheme: Scheme,
    recipe: Recipe,
    sequences: int,
    frames: int,
    height: int,
    width: int,
    progress: bool = True,
) -> Plan:
    """Dry-run a block of each kind with random weights on one and on two random sequences, and extrapolate."""
    rows, cols = height // config.patch_size, width // config.patch_size
    tokens = config.patch_start + rows * cols
    dim = config.embed_dim
    count: dict[Kind, int] = {"dino": config.vit_depth, "frame": config.aa_depth, "global": config.aa_depth}
    blocks = {kind: _float_block(config, recipe, kind) for kind in PATHS}
    formats = {
        kind: {n: f for n in LINEARS if (f := scheme.format(f"{path}.{n}")) is not None} for kind, path in PATHS.items()
    }
    measured: dict[Kind, Cost] = {}
    kinds = [kind for kind in ("frame", "global", "dino") if formats[kind]]
    for kind in bar(kinds, desc="dry run", unit="block", shown=progress):
        if kind == "dino" and formats[kind] == formats["frame"]:
            measured[kind] = measured["frame"]  # the same shapes
            continue
        stage = Stage(PATHS[kind], kind)
        streams = [_noise(n, frames, tokens, dim, (rows, cols), config) for n in (1, 2)]
        measured[kind] = _measure(blocks[kind], stage, formats[kind], streams, recipe)
    seconds = {kind: measured[kind].total(sequences, recipe.epochs) if kind in measured else 0.0 for kind in PATHS}
    block_bytes = sum(p.numel() * p.element_size() for p in blocks["frame"].parameters())
    copies = 1 if recipe.propagation == "float" else 2
    parameters = (config.vit_depth + 2 * config.aa_depth) * block_bytes
    return Plan(
        blocks=count,
        seconds=seconds,
        token_bytes=copies * sequences * frames * tokens * dim * 4,
        block_bytes=block_bytes,
        step_bytes=min(recipe.batch, sequences, max(1, STEP_TOKENS // (frames * tokens)))
        * max((m.step_bytes for m in measured.values()), default=0),
        model_bytes=parameters,
    )


def _float_block(config: VGGTConfig, recipe: Recipe, kind: Kind) -> Block:
    """A block of random weights as the calibration meets it, its LayerScale folded or not."""
    block = Block(config.embed_dim, config.num_heads, config.mlp_ratio, 1.0, qk_norm=kind != "dino")
    if fold_config(recipe, 0) is not None:
        block.ls1, block.ls2 = torch.nn.Identity(), torch.nn.Identity()
    return block.requires_grad_(False)


def _noise(sequences: int, frames: int, tokens: int, dim: int, grid: tuple[int, int], config: VGGTConfig) -> Stream:
    """Random tokens of some sequences."""
    generator = torch.Generator().manual_seed(0)
    stream = Stream(TokenStore(), [], [])
    rope = rope_tables(*grid, dim // config.num_heads, config.patch_start, config.rope_base)
    for _ in range(sequences):
        stream.tokens.append(torch.randn(frames, tokens, dim, generator=generator))
        stream.ropes.append(rope)
        stream.frames.append(frames)
    return stream


def _measure(
    block: Block, stage: Stage, formats: dict[str, LinearFormat], streams: list[Stream], recipe: Recipe
) -> Cost:
    """From three calibrations: of one sequence and of two without learning, of one with one epoch."""
    short = recipe.replace(epochs=1, batch=1)

    def timed(stream: Stream, learn: bool) -> float:
        start = time.perf_counter()
        calibrate_block(block, stage, formats, stream, stream, short.replace(learn=learn), 0)
        return time.perf_counter() - start

    one, two = (timed(stream, False) for stream in streams)
    each, epoch, kept = max(0.0, two - one), 0.0, dict[int, int]()
    if recipe.learns(formats.values()):

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            epoch = max(0.0, timed(streams[0], True) - one)
    return Cost(max(0.0, one - each), each, epoch, sum(kept.values()))
