"""Mean token of each kind (qvggt.models.token_types), over a stream."""

from __future__ import annotations

import torch
from torch import Tensor


class KindMeans:
    """Running sums [kinds, C] and counts [kinds] of tokens by their kind, float64."""

    def __init__(self, kinds: int, width: int) -> None:
        self.sums = torch.zeros(kinds, width, dtype=torch.float64)
        self.counts = torch.zeros(kinds, dtype=torch.float64)

    def add(self, x: Tensor, kinds: Tensor) -> None:
        """Add tokens x [N, L, C] of these kinds [N, L]."""
        self.sums.index_add_(0, kinds.flatten(), x.flatten(0, -2).double())
        self.counts += torch.bincount(kinds.flatten(), minlength=len(self.counts))

    def means(self) -> Tensor:
        """float64 [kinds, C]; 0 for kinds that were not seen."""
        return self.sums / self.counts.clamp_min(1)[:, None]
