"""Token streams of the calibration sequences, moved through the network block by block."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qvggt.hooks import hooked
from qvggt.models.block import Block, Rope
from qvggt.models.family import Stage, family_of
from qvggt.models.network import Network
from qvggt.models.token_types import token_types, types_in


@dataclass(frozen=True)
class Batch:
    """What a block gets: tokens [N, L, C], the RoPE tables of a frame, types of the tokens [N, L]."""

    tokens: Tensor
    rope: Rope | None
    types: Tensor

    def run(self, block: Block) -> Tensor:
        with token_types(self.types):
            return block(self.tokens, self.rope)


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
    """Tokens of every sequence before the next stage: [S, P, C] each, and the RoPE tables of their image size."""

    tokens: TokenStore
    ropes: list[Mapping[str, Rope]]
    shapes: list[tuple[int, int]]  # frames, tokens of a frame

    @classmethod
    @torch.no_grad()
    def start(cls, model: Network, batches: Iterable[Tensor], budget: int = 2 << 30) -> Stream:
        """Embed image batches [S, 3, H, W]; one batch of images is alive at a time."""
        stream, family = cls(TokenStore(budget), [], []), family_of(model)
        for images in batches:
            height, width = images.shape[-2:]
            stream.append(family.embed(model, images), family.positions(model.config, height, width, images.device))
        return stream

    def append(self, tokens: Tensor, ropes: Mapping[str, Rope]) -> None:
        """Add the sequence of these tokens [S, P, C]."""
        self.tokens.append(tokens)
        self.ropes.append(ropes)
        self.shapes.append((tokens.shape[0], tokens.shape[1]))

    def copy(self) -> Stream:
        """An independent stream at the same place."""
        tokens = TokenStore(self.tokens.budget)
        for tensor in self.tokens:
            tokens.append(tensor.clone())
        return Stream(tokens, list(self.ropes), list(self.shapes))

    def groups(self, size: int, order: list[int] | None = None) -> Iterator[list[int]]:
        """Runs of up to `size` sequences of equal shape, in `order`."""
        group: list[int] = []
        for index in order if order is not None else range(len(self.tokens)):
            if group and (len(group) == size or self.shapes[index] != self.shapes[group[0]]):
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def length(self, index: int) -> int:
        """Tokens of a sequence, all frames; reads none of them."""
        frames, tokens = self.shapes[index]
        return frames * tokens

    def batch(self, stage: Stage, group: list[int], frame_shapes: bool = False) -> Batch:
        """What the block of `stage` takes for these sequences: tokens [n*S, P, C], or [n, S*P, C] in a global view.

        frame_shapes: [n*S, P, C] there too.
        """
        tokens, together = torch.cat([self.tokens[i] for i in group]), stage.view == "global" and not frame_shapes
        if together:
            tokens = tokens.view(len(group), -1, tokens.shape[-1])
        types = types_in(stage.layout, tokens, self.shapes[group[0]][0], together)
        return Batch(tokens, None if stage.positions is None else self.ropes[group[0]][stage.positions], types)

    @torch.no_grad()
    def advance(self, stage: Stage, block: Block, frame_shapes: bool = False) -> None:
        """Run the block on every sequence, in place."""
        self.visit(stage, block, {}, frame_shapes, advance=True)

    @torch.no_grad()
    def visit(
        self,
        stage: Stage,
        block: Block,
        readers: Mapping[str, Callable[[Tensor, Tensor], None]],
        frame_shapes: bool = False,
        advance: bool = False,
    ) -> None:
        """Run the block on every sequence; readers[name](input, types) sees the input of that module of the block.

        `advance`: the block's output takes the place of its input.
        """
        types = torch.zeros(0, dtype=torch.int64)
        with hooked(block, readers, lambda name, _module, x: readers[name](x, types)):
            for index in range(len(self.tokens)):
                batch = self.batch(stage, [index], frame_shapes)
                types = batch.types
                out = batch.run(block)
                if advance:
                    self.tokens.put(index, out.view_as(self.tokens[index]))

    def type_means(
        self, stage: Stage, block: Block, names: Iterable[str], frame_shapes: bool = False
    ) -> dict[str, Tensor]:
        """Mean input of each of these linears of the block per type of token, fp32 [types, in]; 0 for types no sequence
        has."""
        sums: dict[str, Tensor] = {}
        counts = dict.fromkeys(names, torch.zeros(stage.layout.types, dtype=torch.float64))

        def add(name: str, x: Tensor, types: Tensor) -> None:
            empty = torch.zeros(stage.layout.types, x.shape[-1], dtype=torch.float64)
            sums.setdefault(name, empty).index_add_(0, types.flatten(), x.flatten(0, -2).double())
            counts[name] = counts[name] + torch.bincount(types.flatten(), minlength=stage.layout.types)

        self.visit(stage, block, {name: partial(add, name) for name in counts}, frame_shapes)
        return {name: (sums[name] / counts[name].clamp_min(1)[:, None]).float() for name in counts}

    @torch.no_grad()
    def enter(self, model: Network, stage: Stage) -> None:
        """What the family does to the tokens before a stage that `enters`."""
        for index in range(len(self.tokens)):
            tokens = family_of(model).enter(model, stage, self.tokens[index])
            self.tokens.put(index, tokens)
            self.shapes[index] = tokens.shape[0], tokens.shape[1]
