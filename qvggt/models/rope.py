"""2-D rotary position embedding of the alternating-attention blocks (spec/vggt.md 1.5)."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_tables(
    rows: int, cols: int, head_dim: int, special: int, base: float = 100.0, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin, each fp32 [special + rows*cols, head_dim].

    Patch (y, x) of the row-major grid sits at position (y+1, x+1); the `special` leading tokens sit at
    (0, 0), where the rotation is the identity. The first half of the channels turns with y, the second with x;
    inside each half, channel j pairs with channel j + head_dim/4 (half-split).
    """
    quarter = head_dim // 4
    inverse = base ** (-torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
    y = torch.arange(1, rows + 1, dtype=torch.float32, device=device).repeat_interleave(cols)
    x = torch.arange(1, cols + 1, dtype=torch.float32, device=device).repeat(rows)
    zeros = torch.zeros(special, dtype=torch.float32, device=device)
    angle_y = torch.cat([zeros, y])[:, None] * inverse
    angle_x = torch.cat([zeros, x])[:, None] * inverse
    angle = torch.cat([angle_y, angle_y, angle_x, angle_x], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [..., tokens, head_dim] by tables that broadcast to it."""
    ya, yb, xa, xb = x.chunk(4, dim=-1)
    return x * cos + torch.cat([-yb, ya, -xb, xa], dim=-1) * sin
