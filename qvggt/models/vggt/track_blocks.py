"""Update transformer of the tracker: attention over time, then across tracks (spec/track_head.md section 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qvggt.models.block import Mlp
from qvggt.models.vggt.config import TrackConfig


def mix(attention: nn.MultiheadAttention, query: Tensor, context: Tensor) -> Tensor:
    """Attend from query [N, L, h] to context [N, M, h]."""
    return attention(query, context, context, need_weights=False)[0]


class SelfBlock(nn.Module):
    """Self attention and MLP on [N, L, h]; the first residual starts from norm1(x), as in the reference."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        x = x + mix(self.attn, x, x)
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """Cross attention from x [N, L, h] to context [N, M, h], then MLP; the same residual from norm1(x)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.norm_context = nn.LayerNorm(dim, eps=1e-5)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.norm1(x)
        x = x + mix(self.cross_attn, x, self.norm_context(context))
        return x + self.mlp(self.norm2(x))


class UpdateTransformer(nn.Module):
    """Track states [B, N, S, 3C+4] -> updates [B, N, S, 2+C].

    Tracks see each other only through learned virtual tracks, which keeps the cost linear in N.
    """

    def __init__(self, config: TrackConfig) -> None:
        super().__init__()
        dim, depth = config.hidden_size, config.depth
        state = 3 * config.features + 4

        def selves() -> nn.ModuleList:
            return nn.ModuleList(SelfBlock(dim, config.num_heads, config.mlp_ratio) for _ in range(depth))

        def crosses() -> nn.ModuleList:
            return nn.ModuleList(CrossBlock(dim, config.num_heads, config.mlp_ratio) for _ in range(depth))

        self.input_norm = nn.LayerNorm(state, eps=1e-5)
        self.input_transform = nn.Linear(state, dim)
        self.output_norm = nn.LayerNorm(dim, eps=1e-5)
        self.flow_head = nn.Linear(dim, 2 + config.features)
        self.virual_tracks = nn.Parameter(torch.randn(1, config.virtual_tracks, 1, dim))  # the checkpoint's spelling
        self.time_blocks = selves()
        self.space_virtual_blocks = selves()
        self.space_point2virtual_blocks = crosses()
        self.space_virtual2point_blocks = crosses()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.flow_head.weight, std=0.001)  # an untrained head moves no point

    def time(self, i: int, tokens: Tensor) -> Tensor:
        """Each track on its own over the frames; tokens [B, N+V, S, h]."""
        return self.time_blocks[i](tokens.flatten(0, 1)).view(tokens.shape)

    def space(self, i: int, tokens: Tensor, tracks: int) -> Tensor:
        """Each frame on its own across the `tracks` points and the virtual tracks after them; [B, N+V, S, h]."""
        b, n, s, h = tokens.shape
        frames = tokens.transpose(1, 2).reshape(b * s, n, h)
        points, virtual = frames[:, :tracks], frames[:, tracks:]
        virtual = self.space_virtual2point_blocks[i](virtual, points)
        virtual = self.space_virtual_blocks[i](virtual)
        points = self.space_point2virtual_blocks[i](points, virtual)
        return torch.cat([points, virtual], dim=1).view(b, s, n, h).transpose(1, 2)

    def forward(self, states: Tensor) -> Tensor:
        b, n, s, _ = states.shape
        entry = self.input_transform(self.input_norm(states))
        tokens = torch.cat([entry, self.virual_tracks.expand(b, -1, s, -1)], dim=1)
        for i in range(len(self.time_blocks)):
            tokens = self.space(i, self.time(i, tokens), n)
        return self.flow_head(self.output_norm(tokens[:, :n] + entry))
