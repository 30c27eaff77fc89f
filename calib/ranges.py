"""Observed input ranges of linears: the statistics static activation quantization starts from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qvggt.progress import bar


@dataclass
class Range:
    """Running extremes of one linear's input over all tokens seen."""

    low: float = 0.0
    high: float = 0.0

    def update(self, x: Tensor) -> None:
        low, high = x.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    @property
    def amax(self) -> float:
        return max(-self.low, self.high)


def observe_ranges(
    model: nn.Module,
    batches: Iterable[Tensor],
    paths: Sequence[str],
    total: int | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Largest |x| at the input of each named linear over image batches [S, 3, H, W] in [0, 1].

    Streams: nothing but the extremes is kept. `total` is the number of batches, for the progress bar.
    """
    ranges = {path: Range() for path in paths}
    hooks = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda _module, inputs, record=ranges[path]: record.update(inputs[0])
        )
        for path in paths
    ]
    try:
        with torch.no_grad():
            for images in bar(batches, total=total, desc="observe ranges", unit="sequence", shown=progress):
                model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: record.amax for path, record in ranges.items()}
