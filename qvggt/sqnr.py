"""Signal to quantization noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies: inf without noise, -inf for noise that is not finite or no signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if math.isfinite(noise) and signal else -math.inf


def sqnr_db(reference: ArrayLike, other: ArrayLike) -> float:
    """`decibels` of an array and of the error of another one of its shape, in float64."""
    truth = np.asarray(reference, np.float64)
    error = np.asarray(other, np.float64) - truth
    return decibels(float(np.square(truth).sum()), float(np.square(error).sum()))
