"""Granularity: which values of a tensor share a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Granularity:
    """One scale for a tensor, for each row of a weight, each token of an activation, or each block of `size` input
    channels of a row (the last block may be shorter)."""

    name: Literal["tensor", "row", "token", "block"]
    size: int | None = None

    def groups(self, columns: int) -> int:
        """Scales of one row of so many input channels."""
        return 1 if self.size is None else -(-columns // self.size)

    def split(self, x: Tensor) -> Tensor:
        """x [..., columns] -> [..., groups, size], a shorter last block filled with zeros (they move no extreme)."""
        columns = x.shape[-1]
        size = self.size or columns
        if missing := -columns % size:
            from torch.nn.functional import pad

            x = pad(x, (0, missing))
        return x.reshape(*x.shape[:-1], -1, size)

    def amax(self, x: Tensor) -> Tensor:
        """Largest magnitude under each scale, [..., groups]; of a tensor a scalar."""
        return x.abs().amax() if self.name == "tensor" else self.split(x).abs().amax(-1)

    def expand(self, scale: Tensor, columns: int) -> Tensor:
        """Block scales [..., groups] repeated over their channels [..., columns]; others broadcast as they are."""
        if self.size is None:
            return scale
        return scale[..., None].expand(*scale.shape, self.size).flatten(-2)[..., :columns]


TENSOR, ROW, TOKEN = Granularity("tensor"), Granularity("row"), Granularity("token")


def block(size: int) -> Granularity:
    """One scale per `size` input channels of a row."""
    return Granularity("block", size)
