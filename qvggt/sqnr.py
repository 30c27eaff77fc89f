"""Signal to quantization noise."""

from __future__ import annotations

import math


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies: inf without noise, -inf for noise that is not finite or no signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if math.isfinite(noise) and signal else -math.inf
