"""What a quantized linear does to its input at run time, where nothing before it could take the work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qvggt.models.token_types import current_types
from qvggt.quant.kronecker import KroneckerHadamard


@dataclass(frozen=True)
class TransformSpec:
    """Which parts an `InputTransform` has, the types of tokens it centers (`kinds` in files), and the directions that
    pass the grid by; JSON-serialisable. whole: these are not taken off, which floats under the codes need not."""

    rotation: bool = False
    scale: bool = False
    kinds: int = 0
    rank: int = 0
    whole: bool = False

    def __bool__(self) -> bool:
        return self.rotation or self.scale or self.kinds > 0 or self.rank > 0


class InputTransform(nn.Module):
    """x [..., n] -> ((x - center of the token's type) K) * scale.

    K is an online Kronecker Hadamard, `scale` a factor per channel, `center` [types, n] the mean token of each type
    (qvggt.models.token_types). Any part may be absent; a smoothing that comes before K lives in K's `signs`. The linear
    that follows carries the inverse of K and scale in its weight, the product with the center in a bias per type.

    `basis` [n, rank], orthonormal columns: what lies along them passes the grid by in floating point, and is taken off
    unless the spec says `whole`.
    """

    scale: Tensor | None
    center: Tensor | None
    basis: Tensor | None

    def __init__(self, width: int, spec: TransformSpec, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.rotation = KroneckerHadamard(width, seed) if spec.rotation else None
        self.register_buffer("scale", torch.ones(width) if spec.scale else None)
        self.register_buffer("center", torch.zeros(spec.kinds, width) if spec.kinds else None)
        self.register_buffer("basis", torch.zeros(width, spec.rank) if spec.rank else None)

    def centered(self, x: Tensor) -> Tensor:
        """x [..., L, n] without the center of each token's type; ValueError outside `token_types`."""
        return x if self.center is None else x - self.center[current_types()].to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """What follows the centering: what the grid is laid over."""
        return self.split(x)[0]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(what the grid is laid over [..., n], what passes it by [..., rank] or None) of a centered x."""
        if self.rotation is not None:
            x = self.rotation(x)
        x = x if self.scale is None else x * self.scale
        if self.basis is None:
            return x, None
        return (x, x @ self.basis.to(x.dtype)) if self.spec.whole else apart(x, self.basis)


def apart(x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., n] as (what is left without its parts along the columns of `basis` [n, rank], these parts)."""
    along = x @ basis.to(x.dtype)
    return x - along @ basis.to(x.dtype).T, along
