"""Observed input ranges of linears: the statistics static activation quantization starts from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.progress import bar


def observe_ranges(
    model: nn.Module,
    batches: Iterable[Tensor],
    paths: Sequence[str],
    total: int | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Largest |x| at the input of each named linear over image batches [S, 3, H, W] in [0, 1].

    Streams: nothing but one number per linear is kept. `total` is the number of batches, for the progress bar.
    Raises QvggtError for a linear that saw no input (no batch, or an iterator read before) or NaN or infinity.
    """
    ranges: dict[str, float] = {}

    def record(path: str, x: Tensor) -> None:
        low, high = x.aminmax()
        amax = max(-float(low), float(high))
        if not math.isfinite(amax):
            raise QvggtError(f"{path}: its input holds NaN or infinity, so it has no range; check weights and images")
        ranges[path] = max(ranges.get(path, 0.0), amax)

    hooks = [
        model.get_submodule(path).register_forward_pre_hook(lambda _, inputs, path=path: record(path, inputs[0]))
        for path in paths
    ]
    try:
        with torch.no_grad():
            for images in bar(batches, total=total, desc="observe ranges", unit="sequence", shown=progress):
                model(images)
    finally:
        for hook in hooks:
            hook.remove()
    for path in paths:
        if path not in ranges:
            raise QvggtError(f"{path}: no input seen; its range needs at least one image sequence")
    return ranges
