"""Observed ranges: what the static quantization of linears and of the dense heads' convolutions starts from.

Largest magnitudes are taken as they are, for convolutions too, whose weights are rounded to nearest on each row's full
range: at 8 bits a narrower range gained nothing, and on 4-bit rows it cost 7 to 10 dB of depth, as clipped weights move
the mean of maps that are positive after a ReLU (docs/results/parts.json has the choice's accuracy).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from qvggt.device import device_of
from qvggt.errors import QvggtError
from qvggt.hooks import hooked
from qvggt.progress import bar
from qvggt.quant.attention import AttentionRange, observed
from qvggt.quant.conv import ConvRange
from qvggt.quant.model import scheme_attentions, scheme_convs, scheme_linears
from qvggt.quant.scheme import Scheme

BEFORE_RELU = ".conv1"  # path ending of convolutions whose negative outputs are never seen


def static_ranges(
    model: nn.Module,
    scheme: Scheme,
    batches: Iterable[Tensor] | None,
    total: int | None = None,
    progress: bool = True,
) -> tuple[dict[str, float], dict[str, ConvRange], dict[str, AttentionRange]]:
    """What `quantize_` takes: ranges of linears with static inputs, of convolutions and of attentions; empty without
    batches.

    `batches` are read once for each of them; what a calibration quantized before shows them its own outputs.
    """
    linears = [path for path, _, format in scheme_linears(model, scheme) if format.observed]
    convs = [path for path, _, format in scheme_convs(model, scheme) if format.activation is not None]
    attentions = [path for path, _, _ in scheme_attentions(model, scheme)]
    if batches is None:
        return {}, {}, {}
    ranges = observe_ranges(model, batches, linears, total, progress) if linears else {}
    maps = observe_convs(model, batches, convs, total, progress) if convs else {}
    return ranges, maps, observe_attentions(model, batches, attentions, total, progress) if attentions else {}


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
        ranges[path] = max(ranges.get(path, 0.0), _largest(path, x, "its input"))

    observe(model, batches, paths, record, desc="observe ranges", total=total, progress=progress)
    return ranges


def observe_convs(
    model: nn.Module,
    batches: Iterable[Tensor],
    paths: Sequence[str],
    total: int | None = None,
    progress: bool = True,
) -> dict[str, ConvRange]:
    """As `observe_ranges`, of inputs and outputs of the named float convolutions."""
    ranges: dict[str, ConvRange] = {}

    def record(path: str, x: Tensor, y: Tensor) -> None:
        y = y.clamp_min(0) if path.endswith(BEFORE_RELU) else y
        before = ranges.get(path, ConvRange(0.0, 0.0))
        maps = ((before.input, x), (before.output, y))
        ranges[path] = ConvRange(*(max(amax, _largest(path, z, "a map")) for amax, z in maps))

    observe(model, batches, paths, record, desc="observe maps", total=total, progress=progress)
    return ranges


def observe_attentions(
    model: nn.Module,
    batches: Iterable[Tensor],
    paths: Sequence[str],
    total: int | None = None,
    progress: bool = True,
) -> dict[str, AttentionRange]:
    """As `observe_ranges`, of queries, keys and values of the named attentions."""
    with observed(model, paths) as ranges:
        observe(model, batches, paths, lambda *_: None, desc="observe attention", total=total, progress=progress)
    return ranges


def _largest(path: str, x: Tensor, what: str) -> float:
    low, high = x.aminmax()
    amax = max(-float(low), float(high))
    if not math.isfinite(amax):
        raise QvggtError(f"{path}: {what} holds NaN or infinity, so it has no range; check weights and images")
    return amax


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
    seen, device = set[str](), device_of(model)

    def keep(path: str, _module: nn.Module, x: Tensor, y: Tensor) -> None:
        record(path, x, y)
        seen.add(path)

    with torch.no_grad(), hooked(model, paths, keep, outputs=True):
        for images in bar(batches, total=total, desc=desc, unit="sequence", shown=progress):
            model(images.to(device))
    for path in paths:
        if path not in seen:
            raise QvggtError(f"{path}: no input seen; its range needs at least one image sequence")
