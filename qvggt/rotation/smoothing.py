"""Smoothing scales folded into the weights around them (DESIGN 3.3).

A scale s > 0 per input channel of a linear divides the activation and multiplies the weight's columns. It comes after
the rotations: fold those first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qvggt.models.block import Block
from qvggt.rotation.precision import in_float64


def fold_smoothing_(
    block: Block, s_qkv: Tensor | None = None, s_proj: Tensor | None = None, s_fc1: Tensor | None = None
) -> None:
    """Fold the scales of three linears into `block`, exactly function-preserving and free at run time.

    s_qkv, s_fc1 [D]: the division goes into the weight and bias of the LayerNorm before the linear. s_proj [D], over
    the concatenated heads: into the v rows of qkv, since attention mixes tokens and not channels. None leaves a linear
    alone. Float64 arithmetic. Raises ValueError for a scale of another shape, or one that is not positive and finite.
    """
    attention, mlp = block.attn, block.mlp
    with in_float64(block):
        # qkv's columns and its v rows scale independently, so the order does not matter
        for s, norm, linear in ((s_qkv, block.norm1, attention.qkv), (s_fc1, block.norm2, mlp.fc1)):
            if s is not None:
                s = checked(s, linear)
                norm.weight.data, norm.bias.data = norm.weight.data / s, norm.bias.data / s
                linear.weight.data = linear.weight.data * s
        if s_proj is not None:
            s = checked(s_proj, attention.proj)
            rows = torch.cat([torch.ones_like(s), torch.ones_like(s), s])
            attention.qkv.weight.data = attention.qkv.weight.data / rows[:, None]
            attention.qkv.bias.data = attention.qkv.bias.data / rows
            attention.proj.weight.data = attention.proj.weight.data * s


def checked(s: Tensor, linear: nn.Linear) -> Tensor:
    """s in float64, on the linear's device."""
    if tuple(s.shape) != (linear.in_features,):
        raise ValueError(f"smoothing scale of shape {list(s.shape)}, expected [{linear.in_features}]")
    if not bool((s.isfinite() & (s > 0)).all()):
        raise ValueError("smoothing scale holds a value that is not positive and finite")
    return s.detach().to(linear.weight.device, torch.float64)
