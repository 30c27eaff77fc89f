"""The forward pass used for training: bf16 matrix products over fp32 master weights, and the taps the losses need.

Numbers differ from VGGT.forward only by bf16 rounding; evaluation always runs the real fp32 model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.hooks import hooked
from qvggt.models.block import Block, Rope
from qvggt.models.rope import rotate
from qvggt.models.vggt.camera_head import activate_pose
from qvggt.models.vggt.network import VGGT


@dataclass
class Taps:
    """What the auxiliary losses look at."""

    frame_tokens: list[Tensor] = field(default_factory=list)  # per round, [B, S, P, C]
    attention: list[Tensor] = field(default_factory=list)  # per round, head 0 probabilities [B, S*P, S*P]


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())


def run_block(block: Block, attention: list[Tensor] | None, x: Tensor, rope: Rope | None = None) -> Tensor:
    """Block.forward with bf16 products and fp32 norms, softmax and residual stream."""
    attn = block.attn
    qkv = linear(attn.qkv, block.norm1(x)).unflatten(-1, (3, attn.num_heads, attn.head_dim))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if rope is not None:
        cos, sin = (table.repeat(x.shape[1] // len(table), 1) for table in rope)
        q, k = rotate(attn.q_norm(q.float()), cos, sin), rotate(attn.k_norm(k.float()), cos, sin)
    scores = (q * attn.head_dim**-0.5).bfloat16() @ k.bfloat16().transpose(-1, -2)
    weights = scores.float().softmax(-1)
    if attention is not None:
        attention.append(weights[:, 0])
    out = (weights.bfloat16() @ v).transpose(1, 2).flatten(2)
    x = x + block.ls1(linear(attn.proj, out).float())
    hidden = F.gelu(linear(block.mlp.fc1, block.norm2(x)))
    return x + block.ls2(linear(block.mlp.fc2, hidden).float())


@contextmanager
def fast(model: VGGT, attention: list[Tensor]) -> Iterator[None]:
    """Every block, and the camera head's modulation, in bf16; the global blocks tell their attention."""
    assert model.camera_head is not None
    modulation = model.camera_head.poseLN_modulation[1]
    told = set(model.aggregator.global_blocks)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        block.forward = partial(run_block, block, attention if block in told else None)  # type: ignore[method-assign]
    modulation.forward = lambda x: linear(modulation, x).float()
    try:
        yield
    finally:
        for module in (*blocks, modulation):
            del module.forward


def aggregate(model: VGGT, images: Tensor, taps: Taps) -> dict[int, Tensor]:
    """Aggregator.forward with fast blocks and taps: {round: [B, S, P, 2C]}."""

    def keep(_path: str, _block: Block, _input: Tensor, tokens: Tensor) -> None:
        taps.frame_tokens.append(tokens.unflatten(0, images.shape[:2]))

    paths = [str(i) for i in range(len(model.aggregator.frame_blocks))]
    with fast(model, taps.attention), hooked(model.aggregator.frame_blocks, paths, keep, outputs=True):
        levels: dict[int, Tensor] = model.aggregator(images)
    return levels


def cameras(model: VGGT, camera_tokens: Tensor) -> list[Tensor]:
    """CameraHead.forward with fast blocks; gradients stop between iterations."""
    head = model.camera_head
    assert head is not None
    tokens, raw = head.token_norm(camera_tokens), None
    poses = []
    with fast(model, []):
        for _ in range(head.iters):
            raw = head.refine(tokens, None if raw is None else raw.detach())
            poses.append(activate_pose(raw))
    return poses
