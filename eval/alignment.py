"""What the 7-Scenes/NRGBD protocol does to predicted points before it measures them (spec evaluation.md 4.3).

Two steps fix what a network without metric scale cannot know: the median depth and the spread of the whole sequence.
No rotation, no shift in x or y. All arithmetic is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

MIN_SPREAD, MAX_SPREAD = 1e-3, 1e3
DOWN = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Aligned:
    """truth, predicted float64 [..., 3] after alignment; scale: factor of the prediction (after its own z shift)."""

    truth: Points
    predicted: Points
    scale: float


def align(truth: Points, predicted: Points, valid: NDArray[np.bool_]) -> Aligned:
    """Shift both so that their median z is 0, then scale the prediction to the spread of the truth.

    truth, predicted [..., 3] of corresponding pixels, in the frame of the first camera; valid [...]: the truth is
    known. Medians are lower medians over all valid pixels of the sequence (of the finite ones among them), per
    coordinate; the spread is the median distance to the median point, the prediction's clipped to [1e-3, 1e3].
    A prediction without a finite valid point comes back as NaN.
    """
    true_z, true_spread = shift_and_spread(truth[valid])
    return Aligned(truth - true_z * DOWN, *scaled(predicted, valid, true_spread))


def scaled(predicted: Points, valid: NDArray[np.bool_], true_spread: float) -> tuple[Points, float]:
    """The prediction's half of `align`: (aligned points, scale), the spread of the truth being known."""
    z, spread = shift_and_spread(predicted[valid])
    scale = math.nan if math.isnan(spread) else true_spread / min(max(spread, MIN_SPREAD), MAX_SPREAD)
    return (predicted - z * DOWN) * scale, scale


def lower_median(values: NDArray[np.float64]) -> float:
    """The middle value, of two the smaller; NaN without any value."""
    if values.size == 0:
        return math.nan
    middle = (values.size - 1) // 2
    return float(np.partition(values, middle)[middle])


def shift_and_spread(points: Points) -> tuple[float, float]:
    """Median z, and median distance to the median point, of points [N, 3]."""
    points = points[np.isfinite(points).all(-1)]
    centre = np.array([lower_median(points[:, axis]) for axis in range(3)])
    return float(centre[2]), lower_median(np.linalg.norm(points - centre, axis=-1))
