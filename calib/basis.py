"""The principal basis of the residual streams: a rotation LayerNorm cannot see, chosen from data (DESIGN 3.1)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.calib.kind_means import KindMeans
from qvggt.calib.stream import Stream, kinds_of, stages
from qvggt.calib.stress import pca_rotation
from qvggt.models.block import Block
from qvggt.models.vggt.network import VGGT
from qvggt.quant.hadamard import named_seed


@torch.no_grad()
def principal_rotations(model: VGGT, batches: Iterable[Tensor], seed: int, memory: int) -> tuple[Tensor, Tensor]:
    """Rotations Q, Q 1 = 1, of patch encoder and aggregator that gather what varies in few channels; float64 [D, D].

    From the covariance of n(x), LayerNorm without affine, about the mean of each kind of token, summed over every
    place where a block reads the stream. One float pass over image batches [S, 3, H, W], block by block.
    """
    width = model.config.embed_dim
    covariances = torch.zeros(2, width, width, dtype=torch.float64)
    stream = Stream.start(model, batches, memory)
    for stage in stages(model):
        if stage.enters_aggregator:
            stream.enter_aggregator(model)
        block = model.get_submodule(stage.path)
        assert isinstance(block, Block)
        which = covariances[int(stage.kind != "dino")]
        count = kinds_of(stage, stream.special)
        moments = {name: NormMoments(count, norm) for name, norm in (("norm1", block.norm1), ("norm2", block.norm2))}
        stream.visit(stage, block, {name: m.add for name, m in moments.items()}, advance=True)
        for m in moments.values():
            which += m.covariance()
    names = ("patch encoder", "aggregator")
    encoder, aggregator = (pca_rotation(c, named_seed(seed, n)) for c, n in zip(covariances, names, strict=True))
    return encoder, aggregator


class NormMoments:
    """Mean per kind and second moment of the tokens a LayerNorm lets through, without its affine."""

    def __init__(self, kinds: int, norm: nn.LayerNorm) -> None:
        width = norm.normalized_shape[0]
        self.eps = norm.eps
        self.first = KindMeans(kinds, width)
        self.second = torch.zeros(width, width, dtype=torch.float64)

    def add(self, x: Tensor, kinds: Tensor) -> None:
        """Add tokens x [N, L, D] of these kinds [N, L]."""
        tokens = F.layer_norm(x.double(), x.shape[-1:], eps=self.eps)
        self.first.add(tokens, kinds)
        tokens = tokens.flatten(0, -2)
        self.second += tokens.T @ tokens

    def covariance(self) -> Tensor:
        """Covariance about the mean of each kind, [D, D]."""
        return (self.second - self.first.means().T @ self.first.sums) / self.first.counts.sum()
