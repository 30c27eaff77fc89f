"""Observed input ranges of linears: the statistics static activation quantization starts from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.hooks import hooked
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

    def record(path: str, x: Tensor, _y: Tensor) -> None:
        low, high = x.aminmax()
        amax = max(-float(low), float(high))
        if not math.isfinite(amax):
            raise QvggtError(f"{path}: its input holds NaN or infinity, so it has no range; check weights and images")
        ranges[path] = max(ranges.get(path, 0.0), amax)

    observe(model, batches, paths, record, desc="observe ranges", total=total, progress=progress)
    return ranges


def observe(
    model: nn.Module,
    batches: Iterable[Tensor],
    paths: Sequence[str],
    record: Callable[[str, Tensor, Tensor], None],
    *,
    desc: str,
    total: int | None,
    progress: bool,
) -> None:
    """Run the model on every batch, with record(path, input, output) of each named module; one batch at a time.

    Raises QvggtError for a module that saw nothing.
    """
    seen: set[str] = set()

    def keep(path: str, _module: nn.Module, x: Tensor, y: Tensor) -> None:
        record(path, x, y)
        seen.add(path)

    with torch.no_grad(), hooked(model, paths, keep, outputs=True):
        for images in bar(batches, total=total, desc=desc, unit="sequence", shown=progress):
            model(images)
    for path in paths:
        if path not in seen:
            raise QvggtError(f"{path}: no input seen; its range needs at least one image sequence")
