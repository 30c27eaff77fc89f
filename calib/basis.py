"""The principal basis of the residual streams: a rotation LayerNorm cannot see, chosen from data (DESIGN 3.1)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.calib.stream import Stream, kinds_of, stages
from qvggt.calib.stress import pca_rotation
from qvggt.model import VGGT
from qvggt.model.block import Block
from qvggt.rotation.hadamard import named_seed


@torch.no_grad()
def principal_rotations(model: VGGT, batches: Iterable[Tensor], seed: int, memory: int) -> tuple[Tensor, Tensor]:
    """Rotations Q, Q 1 = 1, of patch encoder and aggregator that gather what varies in few channels; float64 [D, D].

    From the covariance of n(x), LayerNorm without affine, about the mean of each kind of token, summed over every
    place where a block reads the stream. One float pass over image batches [S, 3, H, W], block by block.
    """
    width = model.config.embed_dim
    covariances = torch.zeros(2, width, width, dtype=torch.float64)
    stream = Stream.start(model, batches, memory)
    plan = stages(model)
    for number, stage in enumerate(plan):
        if stage.kind == "frame" and plan[number - 1].kind == "dino":
            stream.enter_aggregator(model)
        block = model.get_submodule(stage.path)
        assert isinstance(block, Block)
        which = covariances[int(stage.kind != "dino")]
        moments = [KindMoments(kinds_of(stage, stream.special), norm) for norm in (block.norm1, block.norm2)]
        hooks = [m.norm.register_forward_pre_hook(lambda _n, inputs, m=m: m.add(inputs[0])) for m in moments]
        try:
            for index in range(len(stream.tokens)):
                tokens, rope, kinds = stream.batch(stage, [index])
                for m in moments:
                    m.kinds = kinds.flatten()
                stream.tokens.put(index, block(tokens, rope).view_as(stream.tokens[index]))
        finally:
            for hook in hooks:
                hook.remove()
        for m in moments:
            which += m.covariance()
    names = ("patch encoder", "aggregator")
    encoder, aggregator = (pca_rotation(c, named_seed(seed, n)) for c, n in zip(covariances, names, strict=True))
    return encoder, aggregator


class KindMoments:
    """Running first moments per kind and second moment of the tokens a LayerNorm lets through, without its affine."""

    def __init__(self, kinds: int, norm: nn.LayerNorm) -> None:
        width = norm.normalized_shape[0]
        self.norm = norm
        self.kinds = torch.zeros(0, dtype=torch.int64)  # of the tokens to come
        self.sums = torch.zeros(kinds, width, dtype=torch.float64)
        self.counts = torch.zeros(kinds, dtype=torch.float64)
        self.second = torch.zeros(width, width, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add tokens x [N, L, D], whose kinds are set."""
        tokens = F.layer_norm(x.double(), x.shape[-1:], eps=self.norm.eps).flatten(0, -2)
        self.sums.index_add_(0, self.kinds, tokens)
        self.counts += torch.bincount(self.kinds, minlength=len(self.counts))
        self.second += tokens.T @ tokens

    def covariance(self) -> Tensor:
        """Covariance about the mean of each kind, [D, D]."""
        means = self.sums / self.counts.clamp_min(1)[:, None]
        return (self.second - means.T @ self.sums) / self.counts.sum()
