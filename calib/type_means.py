"""Mean token of each type (qvggt.models.token_types), over a stream."""

from __future__ import annotations

import torch
from torch import Tensor


class TypeMeans:
    """Running sums [types, C] and counts [types] of tokens by their type, float64."""

    def __init__(self, types: int, width: int) -> None:
        self.sums = torch.zeros(types, width, dtype=torch.float64)
        self.counts = torch.zeros(types, dtype=torch.float64)

    def add(self, x: Tensor, types: Tensor) -> None:
        """Add tokens x [N, L, C] of these types [N, L]."""
        self.sums.index_add_(0, types.flatten(), x.flatten(0, -2).double())
        self.counts += torch.bincount(types.flatten(), minlength=len(self.counts))

    def means(self) -> Tensor:
        """float64 [types, C]; 0 for types that were not seen."""
        return self.sums / self.counts.clamp_min(1)[:, None]
