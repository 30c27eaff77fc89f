"""What a calibration will cost, measured on this machine before any work (memory, disk, time)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qvggt.calib.calibrate import fold_config
from qvggt.calib.recipe import Recipe
from qvggt.calib.reconstruct import STEP_TOKENS, calibrate_block
from qvggt.calib.stream import Stream, TokenStore
from qvggt.formats.linear_format import LinearFormat
from qvggt.models.block import Block, Rope
from qvggt.models.family import LINEARS, ModelConfig, Stage, find_family
from qvggt.progress import bar
from qvggt.quant.scheme import Scheme


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

    blocks: stages in each group. seconds: per group, of one stage for all sequences and epochs, extrapolated from a dry
    run. token_bytes: of all token streams. block_bytes: of one float block. step_bytes: what a learning step keeps for
    its gradients.
    """

    blocks: dict[str, int]
    seconds: dict[str, float]
    token_bytes: int
    block_bytes: int
    step_bytes: int
    model_bytes: int

    @property
    def total_seconds(self) -> float:
        return sum(count * self.seconds[group] for group, count in self.blocks.items())

    def lines(self, memory: int) -> list[str]:
        """Text for a terminal; `memory` is the bytes of tokens that may stay in RAM."""
        spilled = max(0, self.token_bytes - memory)
        # beside the model: the block's learnable copy, its gradients, two moments of AdamW, moments of the inputs
        peak = self.model_bytes + 6 * self.block_bytes + self.step_bytes + min(self.token_bytes, memory)
        groups = ", ".join(f"{count} {g} blocks at {self.seconds[g]:.1f} s" for g, count in self.blocks.items())
        return [
            f"time: about {self.total_seconds / 60:.1f} min ({groups}; dry run with random weights on this machine)",
            f"memory: about {peak / 1e9:.2f} GB (model {self.model_bytes / 1e9:.2f}, a learning step "
            f"{self.step_bytes / 1e9:.2f}, tokens in RAM up to {min(self.token_bytes, memory) / 1e9:.2f})",
            f"disk: {spilled / 1e9:.2f} GB of spilled tokens, and the checkpoint",
        ]


def make_plan(
    config: ModelConfig,
    scheme: Scheme,
    recipe: Recipe,
    sequences: int,
    frames: int,
    height: int,
    width: int,
    progress: bool = True,
) -> Plan:
    """Dry-run a block of each group with random weights on one and on two random sequences, and extrapolate."""
    family = find_family(config.family)
    stages = family.stages(config)
    tokens, dim = family.tokens(config, height, width), config.embed_dim
    firsts = {stage.group: stage for stage in reversed(stages)}
    firsts = {stage.group: firsts[stage.group] for stage in stages}  # in the order they run
    formats = {
        g: {n: f for n in LINEARS if (f := scheme.format(f"{s.path}.{n}")) is not None} for g, s in firsts.items()
    }
    blocks = {group: _float_block(config, recipe, stage) for group, stage in firsts.items()}
    ropes = family.positions(config, height, width)
    first, *others = firsts.values()
    # blocks with positions before those without, for whose cost they stand where shapes and formats are the same
    todo = [stage for stage in (*others, first) if formats[stage.group]]
    measured: dict[str, Cost] = {}
    for stage in bar(todo, desc="dry run", unit="block", shown=progress):
        same = [
            s for s in todo if s.group in measured and s.view == stage.view and formats[s.group] == formats[stage.group]
        ]
        if same:
            measured[stage.group] = measured[same[0].group]
            continue
        streams = [_noise(n, (frames, tokens, dim), ropes) for n in (1, 2)]
        measured[stage.group] = _measure(blocks[stage.group], stage, formats[stage.group], streams, recipe)
    seconds = {g: measured[g].total(sequences, recipe.epochs) if g in measured else 0.0 for g in firsts}
    block_bytes = sum(p.numel() * p.element_size() for p in blocks[stages[-1].group].parameters())
    copies = 1 if recipe.propagation == "float" else 2
    return Plan(
        blocks={group: sum(stage.group == group for stage in stages) for group in firsts},
        seconds=seconds,
        token_bytes=copies * sequences * frames * tokens * dim * 4,
        block_bytes=block_bytes,
        step_bytes=min(recipe.batch, sequences, max(1, STEP_TOKENS // (frames * tokens)))
        * max((m.step_bytes for m in measured.values()), default=0),
        model_bytes=len(stages) * block_bytes,
    )


def _float_block(config: ModelConfig, recipe: Recipe, stage: Stage) -> Block:
    """A block of random weights as the calibration meets it, its LayerScale folded or not."""
    block = find_family(config.family).block(config, stage)
    if fold_config(recipe, 0) is not None:
        block.ls1, block.ls2 = torch.nn.Identity(), torch.nn.Identity()
    return block.requires_grad_(False)


def _noise(sequences: int, shape: tuple[int, int, int], ropes: Mapping[str, Rope]) -> Stream:
    """Random tokens [S, P, C] of some sequences."""
    generator, stream = torch.Generator().manual_seed(0), Stream(TokenStore(), [], [])
    for _ in range(sequences):
        stream.append(torch.randn(shape, generator=generator), ropes)
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
