"""Rotation of the value channels inside each head (DESIGN 3.2): attention mixes tokens, never channels."""

from __future__ import annotations

import torch
from torch import Tensor

from qvggt.models.block import Attention
from qvggt.quant.hadamard import head_rotation, named_seed


def head_rotations(attention: Attention, seed: int) -> Tensor:
    """One seeded orthogonal matrix per head, [heads, head_dim, head_dim]."""
    return torch.stack(
        [head_rotation(attention.head_dim, named_seed(seed, f"head{i}")) for i in range(attention.num_heads)]
    )


def rotate_values_(attention: Attention, rotations: Tensor) -> None:
    """v' = v R in every head: R into the v rows of qkv, its inverse into the columns of proj.

    rotations: [heads, head_dim, head_dim], orthogonal. Works in the type of its arguments.
    """
    qkv, proj = attention.qkv, attention.proj
    dim, heads = proj.in_features, (attention.num_heads, attention.head_dim)
    weight, bias = qkv.weight.data.clone(), qkv.bias.data.clone()
    rows = weight[2 * dim :].unflatten(0, heads)  # [heads, head_dim, D]
    weight[2 * dim :] = (rotations.mT @ rows).flatten(0, 1)
    bias[2 * dim :] = (bias[2 * dim :].unflatten(0, heads)[:, None] @ rotations).flatten()
    qkv.weight.data, qkv.bias.data = weight, bias
    columns = proj.weight.data.unflatten(1, heads)  # [D, heads, head_dim]
    proj.weight.data = torch.einsum("ohi,hji->ohj", columns, rotations.mT).flatten(1)
