"""Activation statistics: how heavy the tails of each linear's input are, which is what makes low bits hard."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.models.family import LINEARS, family_of
from qvggt.models.network import Network
from qvggt.progress import bar
from qvggt.quant.linear import QuantLinear
from qvggt.watching import watching

TINY = math.ldexp(1, -126)  # smallest normal fp32: ratios stay finite where a median is 0


@dataclass(frozen=True)
class LinearStatistics:
    """Input statistics of one linear over all tokens seen.

    kurtosis: fourth over squared second central moment of all entries; 3 for a Gaussian. max_abs: largest |x|.
    max_over_median: over the median |x|. channel_ratio: largest over median of the channels' absmax. token_ratio: the
    same of the tokens' absmax. special_max, patch_max: largest |x| in camera/register (or class/register) tokens and
    in patch tokens, None where a linear sees no such token. Medians over entries and tokens are good to 0.4 %.
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


@dataclass(frozen=True)
class ActivationStatistics:
    """One row per linear, in the order of the network's modules."""

    rows: tuple[LinearStatistics, ...]

    def summary(self) -> dict[str, dict[str, float]]:
        """Kind of linear -> median over its layers of every statistic, and the largest kurtosis and max/median."""
        out: dict[str, dict[str, float]] = {}
        for kind in dict.fromkeys(row.kind for row in self.rows):
            rows = [row for row in self.rows if row.kind == kind]
            names = ("kurtosis", "max_over_median", "channel_ratio", "token_ratio")
            out[kind] = {name: median(getattr(row, name) for row in rows) for name in names}
            pairs = [row.special_max / row.patch_max for row in rows if row.special_max and row.patch_max]
            if pairs:
                out[kind]["special_over_patch"] = median(pairs)
            out[kind]["kurtosis_max"] = max(row.kurtosis for row in rows)
            out[kind]["max_over_median_max"] = max(row.max_over_median for row in rows)
        return out

    def to_dict(self) -> dict[str, Any]:
        return {"rows": [dataclasses.asdict(row) for row in self.rows]}


def measure_activations(
    model: Network,
    batches: Iterable[Tensor],
    parts: Sequence[str] | None = None,
    *,
    total: int | None = None,
    progress: bool = True,
) -> ActivationStatistics:
    """Statistics of the input of every linear, float or quantized, of these parts over images [S, 3, H, W] in [0, 1].

    parts: by default those that schemes quantize by default.
    Streams: about 0.6 MB of running statistics per linear. Inputs are taken before any online rotation or scale of a
    quantized linear. Raises QvggtError without a sequence, for an unknown part, and for an input that is not finite.
    """
    family = family_of(model)
    known = [part.name for part in family.parts if not part.convs]  # convolutions have no tokens
    chosen = family.default_parts if parts is None else parts
    unknown = [part for part in chosen if part not in known]
    if unknown:
        raise QvggtError(f"unknown part {unknown[0]!r}: expected a subset of {', '.join(known)}")
    special = {f"{s.path}.{linear}": s.layout.special for s in family.stages(model.config) for linear in LINEARS}
    records = {
        path: InputRecord(special.get(path))  # heads see special tokens alone
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | QuantLinear)
        and any(family.part(name).pattern.fullmatch(path) for name in chosen)
    }
    tokens_per_frame = 1
    watchers = [
        (model.get_submodule(path), lambda _m, inputs, record=record: record.update(inputs[0], tokens_per_frame))
        for path, record in records.items()
    ]
    with torch.no_grad(), watching(watchers):
        for images in bar(batches, total=total, desc="activation statistics", unit="sequence", shown=progress):
            tokens_per_frame = family.tokens(model.config, *images.shape[-2:])
            model(images)
    return ActivationStatistics(tuple(record.statistics(path) for path, record in records.items()))


class InputRecord:
    """Running statistics of one linear's input. special: tokens at the start of each frame, None if all are special."""

    def __init__(self, special: int | None) -> None:
        self.special = special
        self.moments = Moments()
        self.entries, self.token_peaks = Magnitudes(), Magnitudes()
        self.channel_peaks: Tensor | None = None
        self.special_max: float | None = None
        self.patch_max: float | None = None

    def update(self, x: Tensor, tokens_per_frame: int) -> None:
        """x [..., L, C], L a whole number of frames of `tokens_per_frame` tokens unless all are special."""
        magnitudes = x.abs().flatten(0, -2)  # [tokens, C]
        self.moments.update(x)
        self.entries.update(magnitudes)
        peaks = magnitudes.amax(-1)
        self.token_peaks.update(peaks)
        channels = magnitudes.amax(0)
        self.channel_peaks = channels if self.channel_peaks is None else torch.maximum(self.channel_peaks, channels)
        if self.special is None:
            self.special_max = larger(self.special_max, peaks)
        else:
            frames = peaks.view(-1, tokens_per_frame)
            self.special_max = larger(self.special_max, frames[:, : self.special])
            self.patch_max = larger(self.patch_max, frames[:, self.special :])

    def statistics(self, path: str) -> LinearStatistics:
        if self.channel_peaks is None:
            raise QvggtError(f"{path}: no input seen; expected at least one image sequence")
        if not bool(self.channel_peaks.isfinite().all()):
            raise QvggtError(f"{path}: its input holds NaN or infinity; check weights and images")
        peak = float(self.channel_peaks.max())
        return LinearStatistics(
            path=path,
            tokens=self.token_peaks.count,
            kurtosis=self.moments.kurtosis,
            max_abs=peak,
            max_over_median=peak / self.entries.median,
            channel_ratio=peak / max(float(self.channel_peaks.double().quantile(0.5)), TINY),
            token_ratio=peak / self.token_peaks.median,
            special_max=self.special_max,
            patch_max=self.patch_max,
        )


class Moments:
    """Running central moments, merged batch by batch (Pebay, SAND2008-6212, eqs. 2.1, 3.1): no cancellation."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.m2 = self.m3 = self.m4 = 0.0  # m_k: sum of (x - mean)^k

    def update(self, x: Tensor) -> None:
        x = x.double()
        n_b, mean = x.numel(), float(x.mean())
        centred = x - mean
        square = centred * centred
        m2, m3, m4 = float(square.sum()), float((square * centred).sum()), float((square * square).sum())
        n_a, n, d = self.count, self.count + n_b, mean - self.mean
        self.m4 += m4 + d**4 * n_a * n_b * (n_a**2 - n_a * n_b + n_b**2) / n**3
        self.m4 += 6 * d**2 * (n_a**2 * m2 + n_b**2 * self.m2) / n**2 + 4 * d * (n_a * m3 - n_b * self.m3) / n
        self.m3 += m3 + d**3 * n_a * n_b * (n_a - n_b) / n**2 + 3 * d * (n_a * m2 - n_b * self.m2) / n
        self.m2 += m2 + d**2 * n_a * n_b / n
        self.mean += d * n_b / n
        self.count = n

    @property
    def kurtosis(self) -> float:
        """Fourth over squared second central moment, biased; 3 for a Gaussian, 0 for a constant."""
        return self.count * self.m4 / self.m2**2 if self.m2 else 0.0


class Magnitudes:
    """Histogram of |x| over the upper 16 bits of its fp32 pattern: bins 0.8 % wide, from denormals to infinity."""

    def __init__(self) -> None:
        self.bins = torch.zeros(1 << 15, dtype=torch.int64)

    def update(self, magnitudes: Tensor) -> None:
        """magnitudes: >= 0, any shape."""
        codes = magnitudes.float().contiguous().view(torch.int32).flatten() >> 16 & 0x7FFF  # no sign bit
        self.bins += torch.bincount(codes, minlength=len(self.bins)).cpu()

    @property
    def count(self) -> int:
        return int(self.bins.sum())

    @property
    def median(self) -> float:
        """Middle of the bin that holds the lower median; never 0."""
        code = int(torch.searchsorted(self.bins.cumsum(0), torch.tensor((self.count + 1) // 2)))
        return max(float(torch.tensor(code << 16 | 1 << 15, dtype=torch.int32).view(torch.float32)), TINY)


def larger(so_far: float | None, values: Tensor) -> float:
    peak = float(values.max())
    return peak if so_far is None else max(so_far, peak)
