"""The types of tokens in a stream.

Camera and register tokens start as learned constants and stay close to one vector per type; patches do not. What
quantizes activations may take the vector of a token's type off first, so that its grid holds what the token tells.

A network knows nothing of this. Its caller says which types the tokens of the block have that runs (`token_types`), and
a linear that treats them apart asks (`current_types`): whatever is between the two, a deep copy or another thread is
not concerned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qvggt.models.family import Stage, TokenLayout, family_of
from qvggt.models.network import Network

_TYPES: ContextVar[Tensor | None] = ContextVar("types of the tokens in the running block", default=None)
_FRAMES: ContextVar[int | None] = ContextVar("frames of a sequence in the running network", default=None)


def frame_types(layout: TokenLayout, tokens: int, device: torch.device | None = None) -> Tensor:
    """Type of each of a frame's tokens, int64 [rows, tokens]: one row for all frames, or one for the first frame and
    one for all others (spec/vggt.md 1.3).

    0 .. special - 1 in a first row, special .. 2 special - 1 in a second, the highest for every patch.
    """
    position = torch.arange(tokens, device=device)
    if not layout.first_apart:
        return position.clamp(max=layout.special)[None]
    rows = torch.stack([position, position + layout.special])
    return torch.where(position < layout.special, rows, torch.full_like(rows, layout.types - 1))


def sequence_types(layout: TokenLayout, frames: int, tokens: int, device: torch.device | None = None) -> Tensor:
    """Type of each token of a sequence, int64 [frames, tokens]."""
    rows = frame_types(layout, tokens, device)
    return rows[torch.arange(frames, device=device).clamp(max=len(rows) - 1)]


def types_in(layout: TokenLayout, tokens: Tensor, frames: int, together: bool) -> Tensor:
    """Types [N, L] of tokens [N, L, C]: N whole sequences of `frames` frames `together`, or each frame for itself."""
    count, length, _ = tokens.shape
    if together:
        return sequence_types(layout, frames, length // frames, tokens.device).reshape(1, -1).expand(count, -1)
    if not layout.first_apart:
        return frame_types(layout, length, tokens.device).expand(count, -1)
    return sequence_types(layout, frames, length, tokens.device).repeat(count // frames, 1)


@contextmanager
def token_types(types: Tensor) -> Iterator[None]:
    """Inside, blocks and linears run on tokens [..., L, C] of these types, int64 [..., L]."""
    before = _TYPES.set(types)
    try:
        yield
    finally:
        _TYPES.reset(before)


def current_types() -> Tensor:
    """Types of the tokens that the caller is given; ValueError where nobody said."""
    types = _TYPES.get()
    if types is None:
        raise ValueError("a linear with centers needs the types of its tokens: call it inside token_types(...)")
    return types


def tell_token_types_(network: Network, stages: list[Stage]) -> None:
    """From now on a pass through the network says the types of their tokens to the blocks of these stages.

    By hooks without state of their own, so that a deep copy of the network or of a block goes on as the original does.
    A block that runs alone is told nothing.
    """
    trunk = network.get_submodule(family_of(network).trunk)
    trunk.register_forward_pre_hook(_enter)
    trunk.register_forward_hook(_leave, always_call=True)
    for stage in stages:
        block = network.get_submodule(stage.path)
        block.register_forward_pre_hook(partial(_before, stage))
        block.register_forward_hook(_after, always_call=True)


def _enter(_trunk: nn.Module, inputs: tuple[Any, ...]) -> None:
    _FRAMES.set(inputs[0].shape[1])  # images [B, S, 3, H, W]


def _leave(_trunk: nn.Module, _inputs: Any, _output: Any) -> None:
    _FRAMES.set(None)


def _before(stage: Stage, _block: nn.Module, inputs: tuple[Any, ...]) -> None:
    frames = _FRAMES.get()
    if frames is not None:
        _TYPES.set(types_in(stage.layout, inputs[0], frames, together=stage.view == "global"))


def _after(_block: nn.Module, _inputs: Any, _output: Any) -> None:
    if _FRAMES.get() is not None:
        _TYPES.set(None)
