"""Emission of transformer blocks (the graph of qvggt.models.block)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from qvggt.export.forms.attention import emit_products
from qvggt.export.forms.site import Site
from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import array, emit_linear
from qvggt.export.precision import Precision
from qvggt.export.token_types import TokenTypes
from qvggt.models.block import Attention, Block, LayerScale, Mlp
from qvggt.quant.attention import QuantAttention
from qvggt.target import Target


@dataclass(frozen=True)
class Rope:
    """Baked rotation tables of one frame, fp32 [P, 1, head_dim]: they broadcast over frames and heads.

    name: tells tables of one size apart.
    """

    cos: NDArray[np.float32]
    sin: NDArray[np.float32]
    name: str = "rope"

    @classmethod
    def of(cls, tables: tuple[Tensor, Tensor], name: str = "rope") -> Rope:
        """From the tables [P, head_dim] of a family's `positions`."""
        cos, sin = (table.cpu().numpy()[:, None] for table in tables)
        return cls(cos, sin, name)

    @property
    def tokens(self) -> int:
        return self.cos.shape[0]


class BlockEmitter:
    """Emits blocks on tokens [N, L, C] where `batch` says how N and L are spelled in a Reshape.

    Blocks over frames: batch (-1, P), N is the symbolic frame count; with `together` their attention goes over the
    tokens of all frames at once, everything else stays frame by frame (so TensorRT sees the same products). Blocks
    over one vector per frame: batch (1, -1). `types`: of the tokens. `precision` is the
    type of the tokens, the attention products and the float linears, by default the network's; norms, rotations and
    the scales after integer products are fp32.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        target: Target,
        batch: tuple[int, int],
        rope: Rope | None = None,
        precision: Precision | None = None,
        together: bool = False,
        types: TokenTypes | None = None,
    ) -> None:
        self.builder, self.target, self.batch, self.rope, self.together = builder, target, batch, rope, together
        self.types = types
        self.precision = precision or builder.precision

    def block(self, path: str, block: Block, x: str, parameters: str = "") -> str:
        owner = parameters or path
        y = self.norm(f"{path}.norm1", block.norm1, x, f"{owner}.norm1")
        y = self.attention(f"{path}.attn", block.attn, y, f"{owner}.attn")
        x = self.add(path, x, self.scale(f"{path}.ls1", block.ls1, y, f"{owner}.ls1"))
        y = self.norm(f"{path}.norm2", block.norm2, x, f"{owner}.norm2")
        y = self.mlp(f"{path}.mlp", block.mlp, y, f"{owner}.mlp")
        return self.add(path, x, self.scale(f"{path}.ls2", block.ls2, y, f"{owner}.ls2"))

    def add(self, path: str, x: str, branch: str) -> str:
        """The residual sum, in the wider type of the two, as tokens."""
        b = self.builder
        wide = self.precision if b.types[branch] == b.types[x] else Precision.FP32
        return b.cast(b.op("Add", [b.cast(x, wide, path), b.cast(branch, wide, path)], path), self.precision, path)

    def linear(self, path: str, module: nn.Module, x: str, parameters: str) -> str:
        return emit_linear(self.builder, path, module, x, self.target, parameters, self.precision, self.types)

    def norm(self, path: str, norm: nn.Module, x: str, parameters: str = "") -> str:
        return emit_norm(self.builder, path, norm, x, parameters)

    def scale(self, path: str, scale: nn.Module, x: str, parameters: str) -> str:
        """LayerScale, or nothing where it was folded away."""
        if isinstance(scale, nn.Identity):
            return x
        if not isinstance(scale, LayerScale):
            raise TypeError(f"{path}: cannot export a {type(scale).__name__} as a layer scale")
        gamma = self.builder.real(f"{parameters}.gamma", array(scale.gamma), self.builder.precision_of(x))
        return self.builder.op("Mul", [x, gamma], path)

    def mlp(self, path: str, mlp: Mlp, x: str, parameters: str) -> str:
        hidden = self.linear(f"{path}.fc1", mlp.fc1, x, f"{parameters}.fc1")
        hidden = self.builder.op("Gelu", [hidden], path, approximate="none")
        return self.linear(f"{path}.fc2", mlp.fc2, hidden, f"{parameters}.fc2")

    def attention(self, path: str, attn: Attention, x: str, parameters: str) -> str:
        b = self.builder
        qkv = self.linear(f"{path}.qkv", attn.qkv, x, f"{parameters}.qkv")
        q, k, v = (
            b.reshape(part, (*self.batch, attn.num_heads, attn.head_dim), path)
            for part in b.ops("Split", [qkv], path, 3, axis=-1, num_outputs=3)
        )  # each [N, L, heads, D]
        # the root of the attention scale on both sides: the pattern TensorRT fuses into one attention kernel
        q = self.turned(f"{path}.q", self.head_norm(f"{path}.q_norm", attn.q_norm, q, f"{parameters}.q_norm"))
        k = self.turned(f"{path}.k", self.head_norm(f"{path}.k_norm", attn.k_norm, k, f"{parameters}.k_norm"))
        wide = Precision.FP32 if isinstance(attn, QuantAttention) else self.precision
        q, k, v = (b.cast(t, wide, path) for t in (q, k, v))
        if b.fused_attention:
            out = self.fused(path, attn, q, k, v)
            return self.linear(f"{path}.proj", attn.proj, out, f"{parameters}.proj")
        if self.together:
            q, k, v = (b.reshape(t, (1, -1, attn.num_heads, attn.head_dim), path) for t in (q, k, v))
        q = self.scaled(path, attn.head_dim, b.op("Transpose", [q], path, perm=[0, 2, 1, 3]))
        k = self.scaled(path, attn.head_dim, b.op("Transpose", [k], path, perm=[0, 2, 3, 1]))
        v = b.op("Transpose", [v], path, perm=[0, 2, 1, 3])
        if isinstance(attn, QuantAttention):
            out = emit_products(Site(b, path, parameters, self.target, self.precision), attn, q, k, v)
        else:
            weights = b.op("Softmax", [b.op("MatMul", [q, k], f"{path}.scores")], path, axis=-1)
            out = b.op("MatMul", [weights, v], f"{path}.context")
        out = b.op("Transpose", [out], path, perm=[0, 2, 1, 3])
        out = b.reshape(out, (*self.batch, attn.num_heads * attn.head_dim), path)
        return self.linear(f"{path}.proj", attn.proj, out, f"{parameters}.proj")

    def fused(self, path: str, attn: Attention, q: str, k: str, v: str) -> str:
        """q, k, v [N, L, heads, D] -> [N, L, heads D] by an operator that never holds all L x L scores."""
        b, width = self.builder, attn.num_heads * attn.head_dim
        q, k, v = (b.reshape(t, (*((1, -1) if self.together else self.batch), width), path) for t in (q, k, v))
        scale = attn.head_dim**-0.5 if self.rope is None else 1.0  # else the rotation tables carry it
        name, heads = f"{path}.context", attn.num_heads
        out = b.op("MultiHeadAttention", [q, k, v], name, domain="com.microsoft", num_heads=heads, scale=scale)
        return b.reshape(out, (*self.batch, width), path) if self.together else out

    def head_norm(self, path: str, norm: nn.Module, x: str, parameters: str) -> str:
        return x if isinstance(norm, nn.Identity) else self.norm(path, norm, x, parameters)

    def scaled(self, path: str, head_dim: int, x: str) -> str:
        """x times the root of the attention scale; with positions the rotation tables carry it already."""
        if self.rope is not None:
            return x
        value = np.array(head_dim**-0.25, np.float32)
        root = self.builder.real(f"attention_scale_{head_dim}", value, self.builder.precision_of(x))
        return self.builder.op("Mul", [x, root], path)

    def turned(self, path: str, x: str) -> str:
        """2-D RoPE on [S, P, heads, D]: x cos + (-b, a, -d, c) sin for the channel quarters a, b, c, d.

        Scaled by D^-1/4, the root of the attention scale, which costs nothing in the tables.
        """
        if self.rope is None:
            return x
        b, rope = self.builder, self.rope
        precision, root = b.precision_of(x), rope.cos.shape[-1] ** -0.25
        cos, sin = (
            b.real(f"{rope.name}_{name}_{rope.tokens}", (table.astype(np.float64) * root).astype(np.float32), precision)
            for name, table in (("cos", rope.cos), ("sin", rope.sin))
        )
        ya, yb, xa, xb = b.ops("Split", [x], path, 4, axis=-1, num_outputs=4)
        turned = b.op("Concat", [b.op("Neg", [yb], path), ya, b.op("Neg", [xb], path), xa], path, axis=-1)
        return b.op("Add", [b.op("Mul", [x, cos], path), b.op("Mul", [turned, sin], path)], path)


def emit_norm(builder: GraphBuilder, path: str, norm: nn.Module, x: str, parameters: str = "") -> str:
    """LayerNorm over the last axis in fp32, returned as fp32; one without affine gets a shared scale of ones."""
    if not isinstance(norm, nn.LayerNorm):
        raise TypeError(f"{path}: cannot export a {type(norm).__name__} as a layer norm")
    owner = parameters or path
    inputs: list[Any] = [builder.cast(x, Precision.FP32, path)]
    if norm.weight is None:
        width = norm.normalized_shape[0]
        inputs.append(builder.real(f"ones_{width}", np.ones(width, np.float32), Precision.FP32))
    else:
        inputs.append(builder.real(f"{owner}.weight", array(norm.weight), Precision.FP32))
        if norm.bias is not None:
            inputs.append(builder.real(f"{owner}.bias", array(norm.bias), Precision.FP32))
    return builder.op("LayerNormalization", inputs, path, axis=-1, epsilon=norm.eps)
