"""Transformer block shared by the families' encoders and heads (spec/vggt.md 1.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.models.rope import rotate

Rope = tuple[Tensor, Tensor]


class Mlp(nn.Module):
    """fc1, exact (erf) GELU, fc2."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """Per-channel gain on a residual branch."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self attention with optional q/k LayerNorm and 2-D RoPE.

    The q, k, v rows of `qkv` are stacked in that order, each head-major.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm: nn.Module = nn.LayerNorm(self.head_dim, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(self.head_dim, eps=1e-5) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def heads(self, x: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v, each [N, heads, L, head_dim]; with RoPE, L is a whole number of frames of P tokens."""
        n, length, _ = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            cos, sin = rope  # [P, head_dim]; the same table turns every frame
            tokens = cos.shape[0]
            q = rotate(q.unflatten(2, (-1, tokens)), cos, sin).flatten(2, 3)
            k = rotate(k.unflatten(2, (-1, tokens)), cos, sin).flatten(2, 3)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What `proj` reads, [N, L, C]; q, k, v each [N, heads, L, head_dim]."""
        return F.scaled_dot_product_attention(q, k, v.to(q.dtype)).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, rope: Rope | None = None) -> Tensor:
        return self.proj(self.attend(*self.heads(x, rope)))


class Block(nn.Module):
    """x + ls1 * attn(norm1 x), then x + ls2 * mlp(norm2 x)."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: int, layer_scale: float, qk_norm: bool = False, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qk_norm)
        self.ls1: nn.Module = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.ls2: nn.Module = LayerScale(dim, layer_scale)

    def forward(self, x: Tensor, rope: Rope | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))

    # the same in three parts, of which only attention looks beyond a token: heads, attn.attend, after

    def heads(self, x: Tensor, rope: Rope | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of tokens [N, L, C], L a whole number of frames."""
        return self.attn.heads(self.norm1(x), rope)

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        """The output for tokens x and what attention made of them, both [N, L, C]."""
        x = x + self.ls1(self.attn.proj(attended))
        return x + self.ls2(self.mlp(self.norm2(x)))
