"""Token streams of the calibration sequences, moved through the network block by block.

They stay in host memory, or on disk; a block gets one batch at a time, on its own device.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qvggt.device import device_of
from qvggt.hooks import hooked
from qvggt.models.block import Block, Rope
from qvggt.models.family import LINEARS, Stage, family_of
from qvggt.models.network import Network
from qvggt.models.token_types import current_types, token_types, types_in

STEP_TOKENS = 8192  # whose activations are held at a time; more are run in pieces of whole frames
SEEN_TOKENS = 1024  # of short sequences that are run together where nothing is learned: a CPU's cache holds them
CPU = torch.device("cpu")
Result = TypeVar("Result")


class Enough(Exception):
    """Raised by the last module that anyone wants to see the input of: what comes behind it need not run."""


def every(calls: Iterable[Callable[[], Result]]) -> list[Result]:
    """What they return; where some have had `Enough`, that is raised once all have run."""
    results, enough = list[Result](), False
    for call in calls:
        try:
            results.append(call())
        except Enough:
            enough = True
    if enough:
        raise Enough
    return results


@dataclass(frozen=True)
class Batch:
    """What a block gets: tokens [N, L, C], the RoPE tables of a frame, types of the tokens [N, L].

    frame: tokens of a frame. together: L are those of whole sequences, which attention sees at once; else of one frame.
    """

    tokens: Tensor
    rope: Rope | None
    types: Tensor
    frame: int
    together: bool

    def run(self, block: Block) -> Tensor:
        """The block's output. Of many tokens piece by piece; where gradients are wanted and attention goes across the
        pieces, what is inside them is computed again for their gradients."""
        if self.tokens.shape[:2].numel() <= max(STEP_TOKENS, self.frame):
            with token_types(self.types):
                return block(self.tokens, self.rope)
        if not self.together:
            return torch.cat(every(partial(part.run, block) for part, _ in self.frames_apart()))
        parts = [slice(i, i + self._tokens) for i in range(0, self.tokens.shape[1], self._tokens)]
        heads = partial(block.heads, rope=self.rope)
        pieces = every(partial(self._piece, part, heads, self.tokens) for part in parts)
        q, k, v = (torch.cat(heads, dim=2) for heads in zip(*pieces, strict=True))
        del pieces
        attended = block.attn.attend(q, k, v)
        return torch.cat(every(partial(self._piece, part, block.after, self.tokens, attended) for part in parts), dim=1)

    def frames_apart(self) -> Iterator[tuple[Batch, slice]]:
        """Batches of up to STEP_TOKENS tokens of single frames, and which rows of this one they are; itself where its
        frames are seen together."""
        count = len(self.tokens) if self.together else max(1, STEP_TOKENS // self.frame)
        for start in range(0, len(self.tokens), count):
            rows = slice(start, start + count)
            yield replace(self, tokens=self.tokens[rows], types=self.types[rows]), rows

    @property
    def _tokens(self) -> int:
        """Of a piece: whole frames of each sequence."""
        return max(1, STEP_TOKENS // (len(self.tokens) * self.frame)) * self.frame

    def _piece(self, part: slice, function: Callable[..., Any], *inputs: Tensor) -> Any:
        types = self.types[:, part]

        def run(*tensors: Tensor) -> Any:
            with token_types(types):  # here, as gradients may come on a thread of their own
                return function(*tensors)

        tensors = [x[:, part] for x in inputs]
        if not torch.is_grad_enabled():
            return run(*tensors)
        return checkpoint(run, *tensors, use_reentrant=False, preserve_rng_state=False)


@dataclass
class Allowance:
    """Bytes of host memory that token stores may still take, together."""

    left: int


class TokenStore:
    """A list of tensors in host memory, wherever they come from, that spills to disk (plain .npy) once it and the
    stores `beside` it hold more than `budget` bytes. pinned: in pages that a GPU reads directly."""

    def __init__(self, budget: int | Allowance = 2 << 30, pinned: bool = False) -> None:
        self.allowance = Allowance(budget) if isinstance(budget, int) else budget
        self.pinned = pinned
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

    def beside(self) -> TokenStore:
        """An empty store that shares the budget."""
        return TokenStore(self.allowance, self.pinned)

    def append(self, tensor: Tensor) -> None:
        self.count += 1
        self.put(self.count - 1, tensor)

    def put(self, index: int, tensor: Tensor) -> None:
        """Replace an entry; it goes to disk when memory is full."""
        old = self.held.pop(index, None)
        self.allowance.left += 0 if old is None else old.nbytes
        if tensor.nbytes > self.allowance.left:
            np.save(self._file(index), tensor.to(CPU).numpy())
            return
        self.allowance.left -= tensor.nbytes
        if self.pinned:
            page = torch.empty(tensor.shape, dtype=tensor.dtype, device=CPU, pin_memory=True)
            self.held[index] = page.copy_(tensor)
        else:
            self.held[index] = tensor.to(CPU)

    def clear(self) -> None:
        """Let go of everything."""
        self.allowance.left += sum(tensor.nbytes for tensor in self.held.values())
        self.held, self.folder, self.count = {}, None, 0

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
        device, family = device_of(model), family_of(model)
        stream = cls(TokenStore(budget, pinned=device.type == "cuda"), [], [])
        for images in batches:
            height, width = images.shape[-2:]
            stream.append(family.embed(model, images.to(device)), family.positions(model.config, height, width, CPU))
        return stream

    def append(self, tokens: Tensor, ropes: Mapping[str, Rope]) -> None:
        """Add the sequence of these tokens [S, P, C]."""
        self.tokens.append(tokens)
        self.ropes.append(ropes)
        self.shapes.append((tokens.shape[0], tokens.shape[1]))

    def copy(self) -> Stream:
        """An independent stream at the same place, in the same budget."""
        tokens = self.tokens.beside()
        for tensor in self.tokens:
            tokens.append(tensor.clone())
        return Stream(tokens, list(self.ropes), list(self.shapes))

    def through(self, stage: Stage, block: Block, frame_shapes: bool = False) -> Stream:
        """An independent stream behind the block."""
        stream = Stream(self.tokens.beside(), list(self.ropes), list(self.shapes))
        self.visit(stage, block, {}, frame_shapes, into=stream.tokens)
        return stream

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

    def pieces(self, group: list[int], tokens: int | None = None) -> Iterator[list[int]]:
        """Sequences of equal shape, as many at a time as have so many tokens, those of a learning step if it is not
        said; one at least."""
        count = max(1, min(STEP_TOKENS, tokens or STEP_TOKENS) // self.length(group[0]))
        return (group[i : i + count] for i in range(0, len(group), count))

    def share(self, total: int, rows: int) -> int:
        """How many of `rows` tokens to take so that all sequences together give `total`, 1 at least."""
        return max(1, total * rows // sum(map(math.prod, self.shapes)))

    def batch(
        self, stage: Stage, group: list[int], frame_shapes: bool = False, device: torch.device | None = None
    ) -> Batch:
        """What the block of `stage` takes for these sequences on its device: tokens [n*S, P, C], or [n, S*P, C] in a
        global view.

        frame_shapes: [n*S, P, C] there too.
        """
        device, together = device or CPU, stage.view == "global" and not frame_shapes
        tokens = torch.cat([self.tokens[i].to(device, non_blocking=True) for i in group])
        frames, frame = self.shapes[group[0]]
        if together:
            tokens = tokens.view(len(group), -1, tokens.shape[-1])
        rope = None if stage.positions is None else self.ropes[group[0]][stage.positions]
        types = types_in(stage.layout, tokens, frames, together)
        return Batch(tokens, rope and (rope[0].to(device), rope[1].to(device)), types, frame, together)

    def advance(self, stage: Stage, block: Block, frame_shapes: bool = False) -> None:
        """Run the block on every sequence, in place."""
        self.visit(stage, block, {}, frame_shapes, into=self.tokens)

    @torch.no_grad()
    def visit(
        self,
        stage: Stage,
        block: Block,
        readers: Mapping[str, Callable[[Tensor, Tensor], None]],
        frame_shapes: bool = False,
        into: TokenStore | None = None,
    ) -> None:
        """Run the block on every sequence; readers[name](input, types) sees the input of that module of the block, of
        a long sequence piece by piece, of short ones several at a time.

        into: the store that gets the block's outputs, which may be this stream's own. Without, what no reader sees is
        left out.
        """
        last = max(readers, key=LINEARS.index) if readers and into is None else None

        def see(name: str, _module: nn.Module, x: Tensor) -> None:
            readers[name](x, current_types())
            if name == last:
                raise Enough

        with hooked(block, readers, see):
            for piece in self.few():
                batch = self.batch(stage, piece, frame_shapes, device_of(block))
                if into is None:
                    with suppress(Enough):
                        batch.run(block)
                    continue
                for index, out in zip(
                    piece, batch.run(block).view(len(piece), *self.shapes[piece[0]], -1), strict=True
                ):
                    into.count = max(into.count, index + 1)
                    into.put(index, out)

    def few(self) -> Iterator[list[int]]:
        """All sequences in order, a few of equal shape at a time."""
        for group in self.groups(len(self.tokens)):
            yield from self.pieces(group, SEEN_TOKENS)

    def type_means(
        self, stage: Stage, block: Block, names: Iterable[str], frame_shapes: bool = False
    ) -> dict[str, Tensor]:
        """Mean input of each of these linears of the block per type of token, fp32 [types, in]; 0 for types no sequence
        has. Products of a sequence or less are fp32, their sum is float64."""
        sums, counts = dict[str, Tensor](), dict[str, Tensor]()

        def add(name: str, x: Tensor, types: Tensor) -> None:
            every = torch.arange(stage.layout.types, device=types.device)
            mine = (types.reshape(-1, 1) == every).to(x.dtype)  # [rows, types]
            total, count = (mine.T @ x.flatten(0, -2)).double(), mine.sum(0)[:, None].double()
            sums[name] = sums[name] + total if name in sums else total
            counts[name] = counts[name] + count if name in counts else count

        self.visit(stage, block, {name: partial(add, name) for name in names}, frame_shapes)
        return {name: (sums[name] / counts[name].clamp_min(1)).float() for name in sums}

    @torch.no_grad()
    def enter(self, model: Network, stage: Stage) -> None:
        """What the family does to the tokens before a stage that `enters`."""
        device = device_of(model)
        for index in range(len(self.tokens)):
            tokens = family_of(model).enter(model, stage, self.tokens[index].to(device))
            self.tokens.put(index, tokens)
            self.shapes[index] = tokens.shape[0], tokens.shape[1]
