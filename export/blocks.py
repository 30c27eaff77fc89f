"""Emission of transformer blocks (the graph of qvggt.model.block)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import array, emit_linear
from qvggt.export.qdq import Target
from qvggt.model.block import Attention, Block, LayerScale, Mlp


@dataclass(frozen=True)
class Rope:
    """Baked rotation tables of one frame, fp32 [P, 1, head_dim]: they broadcast over frames and heads."""

    cos: NDArray[np.float32]
    sin: NDArray[np.float32]

    @property
    def tokens(self) -> int:
        return self.cos.shape[0]


class BlockEmitter:
    """Emits blocks on tokens [N, L, C] where `batch` says how N and L are spelled in a Reshape.

    Frame-wise blocks: batch (-1, P): N is the symbolic frame count. Blocks over all frames: batch (1, -1).
    """

    def __init__(self, builder: GraphBuilder, target: Target, batch: tuple[int, int], rope: Rope | None = None) -> None:
        self.builder, self.target, self.batch, self.rope = builder, target, batch, rope

    def block(self, path: str, block: Block, x: str, parameters: str = "") -> str:
        owner = parameters or path
        y = self.norm(f"{path}.norm1", block.norm1, x, f"{owner}.norm1")
        y = self.attention(f"{path}.attn", block.attn, y, f"{owner}.attn")
        x = self.builder.op("Add", [x, self.scale(f"{path}.ls1", block.ls1, y, f"{owner}.ls1")], path)
        y = self.norm(f"{path}.norm2", block.norm2, x, f"{owner}.norm2")
        y = self.mlp(f"{path}.mlp", block.mlp, y, f"{owner}.mlp")
        return self.builder.op("Add", [x, self.scale(f"{path}.ls2", block.ls2, y, f"{owner}.ls2")], path)

    def norm(self, path: str, norm: nn.Module, x: str, parameters: str = "") -> str:
        return emit_norm(self.builder, path, norm, x, parameters)

    def scale(self, path: str, scale: nn.Module, x: str, parameters: str) -> str:
        """LayerScale, or nothing where it was folded away."""
        if isinstance(scale, nn.Identity):
            return x
        if not isinstance(scale, LayerScale):
            raise TypeError(f"{path}: cannot export a {type(scale).__name__} as a layer scale")
        gamma = self.builder.constant(f"{parameters}.gamma", array(scale.gamma))
        return self.builder.op("Mul", [x, gamma], path)

    def mlp(self, path: str, mlp: Mlp, x: str, parameters: str) -> str:
        hidden = emit_linear(self.builder, f"{path}.fc1", mlp.fc1, x, self.target, f"{parameters}.fc1")
        hidden = self.builder.op("Gelu", [hidden], path, approximate="none")
        return emit_linear(self.builder, f"{path}.fc2", mlp.fc2, hidden, self.target, f"{parameters}.fc2")

    def attention(self, path: str, attn: Attention, x: str, parameters: str) -> str:
        b = self.builder
        qkv = emit_linear(b, f"{path}.qkv", attn.qkv, x, self.target, f"{parameters}.qkv")
        q, k, v = (
            b.reshape(part, (*self.heads_batch, attn.num_heads, attn.head_dim), path)
            for part in b.ops("Split", [qkv], path, 3, axis=-1, num_outputs=3)
        )  # each [N, L, heads, D]
        q = self.rotate(f"{path}.q", self.head_norm(f"{path}.q_norm", attn.q_norm, q, f"{parameters}.q_norm"))
        k = self.rotate(f"{path}.k", self.head_norm(f"{path}.k_norm", attn.k_norm, k, f"{parameters}.k_norm"))
        if self.heads_batch != self.batch:  # rotation went frame by frame; attention goes over all tokens
            q, k, v = (b.reshape(t, (*self.batch, attn.num_heads, attn.head_dim), path) for t in (q, k, v))
        # the root of the scale on both sides: the pattern TensorRT fuses into one attention kernel
        root = b.constant(f"attention_scale_{attn.head_dim}", np.array(attn.head_dim**-0.25, np.float32))
        q = b.op("Mul", [b.op("Transpose", [q], path, perm=[0, 2, 1, 3]), root], path)
        k = b.op("Mul", [b.op("Transpose", [k], path, perm=[0, 2, 3, 1]), root], path)
        v = b.op("Transpose", [v], path, perm=[0, 2, 1, 3])
        weights = b.op("Softmax", [b.op("MatMul", [q, k], f"{path}.scores")], path, axis=-1)
        out = b.op("Transpose", [b.op("MatMul", [weights, v], f"{path}.context")], path, perm=[0, 2, 1, 3])
        out = b.reshape(out, (*self.batch, attn.num_heads * attn.head_dim), path)
        return emit_linear(b, f"{path}.proj", attn.proj, out, self.target, f"{parameters}.proj")

    @property
    def heads_batch(self) -> tuple[int, int]:
        """(N, L) while the heads are apart: frame by frame when there are positions to rotate by."""
        return self.batch if self.rope is None else (-1, self.rope.tokens)

    def head_norm(self, path: str, norm: nn.Module, x: str, parameters: str) -> str:
        return x if isinstance(norm, nn.Identity) else self.norm(path, norm, x, parameters)

    def rotate(self, path: str, x: str) -> str:
        """2-D RoPE on [S, P, heads, D]: x cos + (-b, a, -d, c) sin for the channel quarters a, b, c, d."""
        if self.rope is None:
            return x
        b = self.builder
        cos = b.constant(f"rope_cos_{self.rope.tokens}", self.rope.cos)
        sin = b.constant(f"rope_sin_{self.rope.tokens}", self.rope.sin)
        ya, yb, xa, xb = b.ops("Split", [x], path, 4, axis=-1, num_outputs=4)
        turned = b.op("Concat", [b.op("Neg", [yb], path), ya, b.op("Neg", [xb], path), xa], path, axis=-1)
        return b.op("Add", [b.op("Mul", [x, cos], path), b.op("Mul", [turned, sin], path)], path)


def emit_norm(builder: GraphBuilder, path: str, norm: nn.Module, x: str, parameters: str = "") -> str:
    """LayerNorm over the last axis; one without affine gets a shared scale of ones."""
    if not isinstance(norm, nn.LayerNorm):
        raise TypeError(f"{path}: cannot export a {type(norm).__name__} as a layer norm")
    owner = parameters or path
    inputs: list[Any] = [x]
    if norm.weight is None:
        width = norm.normalized_shape[0]
        inputs.append(builder.constant(f"ones_{width}", np.ones(width, np.float32)))
    else:
        inputs.append(builder.constant(f"{owner}.weight", array(norm.weight)))
        if norm.bias is not None:
            inputs.append(builder.constant(f"{owner}.bias", array(norm.bias)))
    return builder.op("LayerNormalization", inputs, path, axis=-1, epsilon=norm.eps)
