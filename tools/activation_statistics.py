"""Activation statistics: how heavy the tails of each linear's input are, which is what makes low bits hard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from reporting import markdown
from scipy.stats import kurtosis
from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.hooks import hooked
from qvggt.models.family import family_of
from qvggt.models.network import Network
from qvggt.progress import bar
from qvggt.quant.linear import QuantLinear

TINY = math.ldexp(1, -126)  # smallest normal fp32: ratios stay finite where a median is 0
FIGURES = {
    "kurtosis": "kurtosis",
    "max_over_median": "max/med",
    "channel_ratio": "ch max/med",
    "token_ratio": "tok max/med",
    "special_over_patch": "special/patch",
    "kurtosis_max": "kurt_max",
    "max_over_median_max": "mm_max",
}
MEDIANS = ("kurtosis", "max_over_median", "channel_ratio", "token_ratio")


@dataclass(frozen=True)
class LinearStatistics:
    """Input statistics of one linear over all tokens seen.

    kurtosis: fourth over squared second central moment of all entries; 3 for a Gaussian. max_abs: largest |x|.
    max_over_median: over the median |x|. channel_ratio: largest over median of the channels' absmax. token_ratio: the
    same of the tokens' absmax. special_max, patch_max: largest |x| in camera/register (or class/register) tokens and
    in patch tokens, None where a linear sees no such token.
    """

    path: str
    tokens: int
    kurtosis: float
    max_abs: float
    max_over_median: float
    channel_ratio: float
    token_ratio: float
    special_max: float | None
    patch_max: float | None

    @property
    def kind(self) -> str:
        """qkv, proj, fc1 or fc2."""
        return self.path.rsplit(".", 1)[-1]


def summary(rows: Sequence[LinearStatistics]) -> dict[str, dict[str, float]]:
    """Kind of linear -> median over its layers of every statistic, and the largest kurtosis and max/median."""
    out: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(row.kind for row in rows):
        layers = [row for row in rows if row.kind == kind]
        out[kind] = {name: median(getattr(row, name) for row in layers) for name in MEDIANS}
        pairs = [row.special_max / row.patch_max for row in layers if row.special_max and row.patch_max]
        if pairs:
            out[kind]["special_over_patch"] = median(pairs)
        out[kind] |= {f"{name}_max": max(getattr(row, name) for row in layers) for name in MEDIANS[:2]}
    return out


def measure_activations(
    model: Network, batches: Iterable[Tensor], parts: Sequence[str] | None = None, *, progress: bool = True
) -> list[LinearStatistics]:
    """Statistics of the input of every linear, float or quantized, of these parts (by default the
    family's default ones) over images [S, 3, H, W] in [0, 1].

    In the order of the network's modules, exact: every input is kept in memory, 100 MB for 24 sequences of 4 frames of
    the tiny model. Inputs are taken before any online rotation or scale of a quantized linear. Raises QvggtError
    without a sequence, for an unknown part, and for an input that is not finite.
    """
    family = family_of(model)
    parts = family.default_parts if parts is None else parts
    known = [part.name for part in family.parts if not part.convs and not part.single]  # those have no blocks' tokens
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise QvggtError(f"unknown part {unknown[0]!r}: expected a subset of {', '.join(known)}")
    seen: dict[str, list[Tensor]] = {
        path: []
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | QuantLinear)
        and any(family.part(part).pattern.fullmatch(path) for part in parts)
    }
    special = {stage.path: stage.layout.special for stage in family.stages(model.config)}
    start, per_frame = max(special.values()), 1  # tokens of a frame before its patches, and in all

    def keep(path: str, _module: nn.Module, x: Tensor) -> None:
        size = per_frame if path.startswith(tuple(special)) else 1  # blocks of heads see no patches
        seen[path].append(x.cpu().reshape(-1, size, x.shape[-1]))

    with torch.no_grad(), hooked(model, seen, keep):
        for images in bar(batches, desc="activation statistics", unit="sequence", shown=progress):
            per_frame = family.tokens(model.config, *images.shape[-2:])
            model(images)
    return [statistics(path, frames, start) for path, frames in seen.items()]


def statistics(path: str, frames: Sequence[Tensor], special: int) -> LinearStatistics:
    """Of inputs [frames, tokens of a frame, C]; the first `special` tokens of each frame are no patches."""
    if not frames:
        raise QvggtError(f"{path}: no input seen; expected at least one image sequence")
    x = torch.cat([part.flatten(0, 1) for part in frames]).double().numpy()
    if not np.isfinite(x).all():
        raise QvggtError(f"{path}: its input holds NaN or infinity; check weights and images")
    magnitudes = np.abs(x)
    peak = float(magnitudes.max())
    medians = [float(np.median(values)) for values in (magnitudes, magnitudes.max(0), magnitudes.max(1))]
    halves = [part[:, :special] for part in frames], [part[:, special:] for part in frames]
    peaks = [max((float(p.abs().max()) for p in half if p.numel()), default=None) for half in halves]
    return LinearStatistics(
        path,
        len(x),
        float(kurtosis(x, axis=None, fisher=False)) if np.ptp(x) else 0.0,
        peak,
        *(peak / max(value, TINY) for value in medians),
        *peaks,
    )


def print_statistics(tables: Mapping[str, Sequence[LinearStatistics]]) -> None:
    """Tables for a terminal: every linear, and medians over the layers of a kind; `tables`: model -> its rows."""
    print("\nKurtosis (3 = Gaussian) and max|x| / median|x| at the input of every linear:")
    lines = zip(*tables.values(), strict=True)
    cells = [[rows[0].path, *(f"{row.kurtosis:.1f}, {row.max_over_median:.1f}" for row in rows)] for rows in lines]
    print(markdown(["linear", *tables], cells))
    print("Medians over the layers of a kind; *_max: over them the largest:")
    summaries = [(name, kind, figures) for name, table in tables.items() for kind, figures in summary(table).items()]
    cells = [
        [name, kind, *(f"{figures[key]:.2f}" if key in figures else "-" for key in FIGURES)]
        for name, kind, figures in summaries
    ]
    print(markdown(["model", "linear", *FIGURES.values()], cells), end="")
