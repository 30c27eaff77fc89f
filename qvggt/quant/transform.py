"""What a quantized linear does to its input at run time, where nothing before it could take the work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qvggt.rotation.kronecker import KroneckerHadamard


@dataclass(frozen=True)
class TransformSpec:
    """Which parts an `InputTransform` has; JSON-serialisable."""

    rotation: bool = False
    scale: bool = False

    def __bool__(self) -> bool:
        return self.rotation or self.scale

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class InputTransform(nn.Module):
    """x [..., n] -> (x K) * scale: an online Kronecker Hadamard K, then a factor per channel (1/s of a smoothing).

    Either part may be absent. The weight that follows carries the inverse of both.
    """

    scale: Tensor | None

    def __init__(self, width: int, spec: TransformSpec, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.rotation = KroneckerHadamard(width, seed) if spec.rotation else None
        self.register_buffer("scale", torch.ones(width) if spec.scale else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.rotation is not None:
            x = self.rotation(x)
        return x if self.scale is None else x * self.scale
