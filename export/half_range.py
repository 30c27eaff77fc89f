"""How close activations come to the end of fp16: a value past 65504 becomes infinite, and every token after it NaN."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qvggt.device import device_of
from qvggt.export.precision import Precision
from qvggt.hooks import hooked
from qvggt.models.block import Block
from qvggt.models.family import family_of
from qvggt.models.network import Network
from qvggt.quant.linear import QuantLinear

LIMIT = Precision.FP16.limit
WORRY = 8.0  # headroom below which other images may well overflow: three bits


@dataclass(frozen=True)
class ModuleRange:
    """Largest |x| seen at the `side` ("input" or "output") of a module that an fp16 export computes in fp16."""

    path: str
    side: str
    amax: float

    @property
    def headroom(self) -> float:
        """How many times larger values may grow before they overflow; below 1 they do."""
        return LIMIT / self.amax if self.amax > 0 else float("inf")

    def __str__(self) -> str:
        return f"{self.side} of {self.path}: max |x| {self.amax:.4g}, headroom {self.headroom:.2g}x to {LIMIT:.0f}"


def half_ranges(model: Network, batches: Iterable[Tensor]) -> tuple[ModuleRange, ...]:
    """Ranges of every linear, convolution and block over image batches [S, 3, H, W], largest first; NaN counts as inf.

    `model` is the fp32 reference, so that values past the limit are seen as they are.
    """
    largest: dict[tuple[str, str], float] = {}

    def record(path: str, side: str, x: Tensor) -> None:
        low, high = x.aminmax()
        amax = max(-float(low), float(high)) if bool(torch.isfinite(low) & torch.isfinite(high)) else float("inf")
        largest[path, side] = max(largest.get((path, side), 0.0), amax)

    def both(path: str, _module: nn.Module, x: Tensor, y: Tensor) -> None:
        record(path, "input", x)
        record(path, "output", y)

    skipped = family_of(model).island(Precision.FP16.value)
    measured = (nn.Linear, QuantLinear, nn.Conv2d, nn.ConvTranspose2d, Block)
    paths = [path for path, m in model.named_modules() if isinstance(m, measured) and not skipped.match(path)]
    with torch.no_grad(), hooked(model, paths, both, outputs=True):
        for images in batches:
            model(images.to(device_of(model)))
    ranges = (ModuleRange(path, side, amax) for (path, side), amax in largest.items())
    return tuple(sorted(ranges, key=lambda r: -r.amax))
