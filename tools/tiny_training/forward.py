"""The forward pass used for training: bf16 matrix products over fp32 master weights, and the taps the losses need.

Numbers differ from VGGT.forward only by bf16 rounding; evaluation always runs the real fp32 model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.models.block import Block, Rope
from qvggt.models.rope import rotate
from qvggt.models.vggt.camera_head import activate_pose
from qvggt.models.vggt.network import VGGT


@dataclass
class Taps:
    """What the auxiliary losses look at."""

    frame_tokens: list[Tensor] = field(default_factory=list)  # per round, [B, S, P, C]
    attention: list[Tensor] = field(default_factory=list)  # per round, head 0 probabilities [B, S*P, S*P]


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())


def run_block(block: Block, x: Tensor, rope: Rope | None = None, attention: list[Tensor] | None = None) -> Tensor:
    """Block.forward with bf16 products and fp32 norms, softmax and residual stream."""
    n, length, c = x.shape
    attn = block.attn
    q, k, v = (
        linear(block.norm1(x), attn.qkv).view(n, length, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
    ).unbind(0)
    if rope is not None:
        cos, sin = rope
        q = rotate(attn.q_norm(q.float()), cos, sin)
        k = rotate(attn.k_norm(k.float()), cos, sin)
    scores = (q * attn.head_dim**-0.5).bfloat16() @ k.bfloat16().transpose(-1, -2)
    weights = scores.float().softmax(-1)
    if attention is not None:
        attention.append(weights[:, 0])
    out = (weights.bfloat16() @ v).transpose(1, 2).reshape(n, length, c)
    x = x + block.ls1(linear(out, attn.proj).float())
    hidden = F.gelu(linear(block.norm2(x), block.mlp.fc1))
    return x + block.ls2(linear(hidden, block.mlp.fc2).float())


def embed(model: VGGT, images: Tensor) -> Tensor:
    """Aggregator.embed with fast blocks: [B, S, P, C]."""
    aggregator, vit = model.aggregator, model.aggregator.patch_embed
    b, s, _, height, width = images.shape
    flat = aggregator.normalise(images)
    tokens = torch.cat([vit.cls_token.expand(b * s, -1, -1), vit.patch_embed(flat)], 1) + vit.positions(height, width)
    tokens = torch.cat([tokens[:, :1], vit.register_tokens.expand(b * s, -1, -1), tokens[:, 1:]], 1)
    for block in vit.blocks:
        tokens = run_block(block, tokens)
    patches = vit.norm(tokens)[:, 1 + vit.num_registers :]
    special = torch.cat([aggregator.camera_token, aggregator.register_token], 2)
    special = torch.cat([special[:, :1], special[:, 1:].expand(-1, s - 1, -1, -1)], 1).expand(b, -1, -1, -1)
    return torch.cat([special, patches.view(b, s, *patches.shape[1:])], 2)


def aggregate(model: VGGT, images: Tensor, taps: Taps) -> dict[int, Tensor]:
    """Aggregator.forward with fast blocks and taps: {round: [B, S, P, 2C]}."""
    aggregator = model.aggregator
    tokens = embed(model, images)
    b, s, p, c = tokens.shape
    cos, sin = aggregator.rope(images.shape[-2], images.shape[-1], images.device)
    everywhere = (cos.repeat(s, 1), sin.repeat(s, 1))
    levels = {}
    for i, (frame_block, global_block) in enumerate(
        zip(aggregator.frame_blocks, aggregator.global_blocks, strict=True)
    ):
        frame = run_block(frame_block, tokens.view(b * s, p, c), (cos, sin)).view(b, s, p, c)
        taps.frame_tokens.append(frame)
        tokens = run_block(global_block, frame.view(b, s * p, c), everywhere, taps.attention).view(b, s, p, c)
        if i in aggregator.kept:
            levels[i] = torch.cat([frame, tokens], -1)
    return levels


def cameras(model: VGGT, camera_tokens: Tensor) -> list[Tensor]:
    """CameraHead.forward with fast blocks; gradients stop between iterations."""
    head = model.camera_head
    assert head is not None
    tokens = head.token_norm(camera_tokens)
    raw = None
    poses = []
    for _ in range(head.iters):
        b, s, _ = tokens.shape
        source = head.empty_pose_tokens.expand(b, s, -1) if raw is None else raw.detach()
        modulation = head.poseLN_modulation[1]
        shift, scale, gate = linear(F.silu(head.embed_pose(source)), modulation).float().chunk(3, -1)
        z = gate * (head.adaln_norm(tokens) * (1 + scale) + shift) + tokens
        for block in head.trunk:
            z = run_block(block, z)
        delta = head.pose_branch(head.trunk_norm(z))
        raw = delta if raw is None else raw.detach() + delta
        poses.append(activate_pose(raw))
    return poses
