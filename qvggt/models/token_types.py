"""The kinds of tokens in a stream.

Camera and register tokens start as learned constants and stay close to one vector per kind; patches do not. What
quantizes activations may take the vector of a token's kind off first, so that its grid holds what the token tells.
"""

from __future__ import annotations

import torch
from torch import Tensor


def encoder_kinds(tokens: int, special: int, device: torch.device | None = None) -> Tensor:
    """Kind of each token of a patch encoder's frame, int64 [P]: 0 .. special - 1 for the special ones, then patches."""
    return torch.arange(tokens, device=device).clamp(max=special)


def aggregator_kinds(frames: int, tokens: int, special: int, device: torch.device | None = None) -> Tensor:
    """Kind of each token of a sequence, int64 [S, P]: the first frame has special tokens of its own (spec/vggt.md 1.3).

    0 .. special - 1 in the first frame, special .. 2 special - 1 in the others, 2 special for every patch.
    """
    position = torch.arange(tokens, device=device)
    rows = torch.stack([position, position + special])
    rows = torch.where(position < special, rows, torch.full_like(rows, 2 * special))
    return rows[torch.arange(frames, device=device).clamp(max=1)]
