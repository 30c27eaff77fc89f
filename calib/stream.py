"""Token streams of the calibration sequences, moved through the network block by block."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qvggt.models.block import Block, Rope
from qvggt.models.token_types import aggregator_kinds, encoder_kinds
from qvggt.models.vggt.network import VGGT
from qvggt.watching import watching

Kind = Literal["dino", "frame", "global"]


@dataclass(frozen=True)
class Stage:
    """One transformer block: its module path, and how it sees the tokens of a sequence."""

    path: str
    kind: Kind

    @property
    def enters_aggregator(self) -> bool:
        """Whether it is the first block after the patch encoder."""
        return self.path == "aggregator.frame_blocks.0"


def kinds_of(stage: Stage, special: int) -> int:
    """Kinds of tokens in a stage's stream."""
    return special + 1 if stage.kind == "dino" else 2 * special + 1


def stages(model: VGGT) -> list[Stage]:
    """Every block of the patch encoder and the aggregator, in the order they run."""
    aggregator = model.aggregator
    found = [Stage(f"aggregator.patch_embed.blocks.{i}", "dino") for i in range(len(aggregator.patch_embed.blocks))]
    for i in range(len(aggregator.frame_blocks)):
        found.append(Stage(f"aggregator.frame_blocks.{i}", "frame"))
        found.append(Stage(f"aggregator.global_blocks.{i}", "global"))
    return found


class TokenStore:
    """A list of tensors that spills to disk (plain .npy) once it holds more than `budget` bytes in memory."""

    def __init__(self, budget: int = 2 << 30) -> None:
        self.budget = budget
        self.held: dict[int, Tensor] = {}
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        if index in self.held:
            return self.held[index]
        return torch.from_numpy(np.load(self._file(index), allow_pickle=False))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(self.count))

    def append(self, tensor: Tensor) -> None:
        self.count += 1
        self.put(self.count - 1, tensor)

    def put(self, index: int, tensor: Tensor) -> None:
        """Replace an entry; it goes to disk when memory is full."""
        self.held.pop(index, None)
        used = sum(t.numel() * t.element_size() for t in self.held.values())
        if used + tensor.numel() * tensor.element_size() <= self.budget:
            self.held[index] = tensor
            return
        np.save(self._file(index), tensor.numpy())

    def _file(self, index: int) -> Path:
        if self.folder is None:
            self.folder = tempfile.TemporaryDirectory(prefix="qvggt-tokens-")
        return Path(self.folder.name) / f"{index}.npy"


@dataclass
class Stream:
    """Tokens of every sequence before the next stage: [S, T, C] each, and the RoPE tables of their image size."""

    tokens: TokenStore
    ropes: list[Rope]
    frames: list[int]
    special: int = 0  # camera (or class) and register tokens of a frame

    @classmethod
    @torch.no_grad()
    def start(cls, model: VGGT, batches: Iterable[Tensor], budget: int = 2 << 30) -> Stream:
        """Embed image batches [S, 3, H, W]; one batch of images is alive at a time."""
        stream = cls(TokenStore(budget), [], [], model.config.patch_start)
        encoder = model.aggregator.patch_embed
        for images in batches:
            stream.tokens.append(encoder.embed(model.aggregator.normalise(images[None])))
            stream.ropes.append(model.aggregator.rope(images.shape[-2], images.shape[-1], images.device))
            stream.frames.append(len(images))
        return stream

    def copy(self) -> Stream:
        """An independent stream at the same place."""
        tokens = TokenStore(self.tokens.budget)
        for tensor in self.tokens:
            tokens.append(tensor.clone())
        return Stream(tokens, list(self.ropes), list(self.frames), self.special)

    def groups(self, size: int, order: list[int] | None = None) -> Iterator[list[int]]:
        """Runs of up to `size` sequences of equal shape, in `order`."""
        group: list[int] = []
        for index in order if order is not None else range(len(self.tokens)):
            if group and (len(group) == size or self._shape(index) != self._shape(group[0])):
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def _shape(self, index: int) -> tuple[int, int]:
        return self.frames[index], self.ropes[index][0].shape[0]

    def length(self, index: int) -> int:
        """Tokens of a sequence, all frames; reads none of them."""
        frames, tokens = self._shape(index)
        return frames * tokens

    def batch(self, stage: Stage, group: list[int], frame_shapes: bool = False) -> tuple[Tensor, Rope | None, Tensor]:
        """What the block of `stage` takes for these sequences: tokens, RoPE tables, kinds of the tokens.

        Tokens [n*S, T, C], or [n, S*P, C] for a global block; kinds of the same shape without C.
        """
        tokens = torch.cat([self.tokens[i] for i in group])
        count = tokens.shape[1]
        if stage.kind == "dino":
            return tokens, None, encoder_kinds(count, self.special, tokens.device).expand(len(tokens), -1)
        kinds = aggregator_kinds(self.frames[group[0]], count, self.special, tokens.device).repeat(len(group), 1)
        if stage.kind == "global" and not frame_shapes:
            tokens, kinds = tokens.view(len(group), -1, tokens.shape[-1]), kinds.view(len(group), -1)
        return tokens, self.ropes[group[0]], kinds

    @torch.no_grad()
    def advance(self, stage: Stage, block: Block, frame_shapes: bool = False) -> None:
        """Run the block on every sequence, in place."""
        self.visit(stage, block, {}, frame_shapes, advance=True)

    @torch.no_grad()
    def visit(
        self,
        stage: Stage,
        block: Block,
        watchers: Mapping[str, Callable[[Tensor, Tensor], None]],
        frame_shapes: bool = False,
        advance: bool = False,
    ) -> None:
        """Run the block on every sequence; watchers[name](input, kinds) sees the input of that module of the block.

        `advance`: the block's output takes the place of its input.
        """
        kinds = torch.zeros(0, dtype=torch.int64)
        calls = [
            (block.get_submodule(name), lambda _m, inputs, watch=watch: watch(inputs[0], kinds))
            for name, watch in watchers.items()
        ]
        with watching(calls):
            for index in range(len(self.tokens)):
                tokens, rope, kinds = self.batch(stage, [index], frame_shapes)
                out = block(tokens, rope, kinds)
                if advance:
                    self.tokens.put(index, out.view_as(self.tokens[index]))

    @torch.no_grad()
    def enter_aggregator(self, model: VGGT) -> None:
        """From the patch encoder's last block to the aggregator's first."""
        encoder = model.aggregator.patch_embed
        for index, frames in enumerate(self.frames):
            joined = model.aggregator.join(encoder.patches(self.tokens[index]), 1, frames)
            self.tokens.put(index, joined[0].contiguous())
