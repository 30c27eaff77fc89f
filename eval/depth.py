"""Depth-map metrics: absolute relative error and the delta < 1.25 inlier ratio.

VGGT's depth has no metric scale, so one factor per sequence, from the medians, may be divided out first. All arithmetic
is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from qvggt.errors import QvggtError

Alignment = Literal["median", "none"]

INLIER_RATIO = 1.25


@dataclass(frozen=True)
class DepthErrors:
    """Metrics of one sequence over its valid pixels.

    abs_rel: mean of |pred - gt| / gt. delta1: fraction of pixels with max(pred / gt, gt / pred) < 1.25, in [0, 1].
    scale: factor the prediction was multiplied by (1 without alignment). pixels: number of valid pixels.
    """

    abs_rel: float
    delta1: float
    scale: float
    pixels: int


def depth_errors(
    pred: ArrayLike | torch.Tensor, gt: ArrayLike | torch.Tensor, align: Alignment = "median"
) -> DepthErrors:
    """Compare the depth maps of one sequence, e.g. `[S, H, W]` or `[S, H, W, 1]`; both shapes must be equal.

    Valid pixels: finite ground truth > 0. align "median": the prediction is multiplied by median(gt) / median(pred),
    both over the valid pixels of the whole sequence, so scale errors between its frames still count. "none": compared
    as it is.

    A bad prediction is reported, not hidden: a pixel that is NaN, infinite or not positive is no inlier, a non-finite
    one makes abs_rel non-finite (only the median passes over it), and if the median is not positive there is no scale:
    scale and abs_rel are NaN, delta1 is 0.

    Raises QvggtError on different shapes, no valid pixel or an unknown alignment.
    """
    if align not in get_args(Alignment):
        raise QvggtError(f"depth alignment: expected one of {', '.join(get_args(Alignment))}, got {align!r}")
    predicted, truth = _as_float64(pred), _as_float64(gt)
    if predicted.shape != truth.shape:
        raise QvggtError(f"predicted depth: expected shape {truth.shape} as the ground truth, got {predicted.shape}")
    valid = np.isfinite(truth) & (truth > 0)
    if not valid.any():
        raise QvggtError("ground-truth depth: expected at least one pixel > 0, got none; leave the sequence out")
    predicted, truth = predicted[valid], truth[valid]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # a bad prediction, not a bad program
        scale = _median_scale(predicted, truth) if align == "median" else 1.0
        predicted = predicted * scale
        ratio = np.maximum(predicted / truth, truth / predicted)
        inlier = (predicted > 0) & (ratio < INLIER_RATIO)
        abs_rel = np.mean(np.abs(predicted - truth) / truth)
    return DepthErrors(float(abs_rel), float(np.mean(inlier)), scale, int(truth.size))


def _median_scale(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """median(truth) / median(predicted), or NaN: a factor <= 0 would turn negative depths into good ones."""
    finite = predicted[np.isfinite(predicted)]
    median = np.median(finite) if finite.size else 0.0
    return float(np.median(truth) / median) if median > 0 else float("nan")


def _as_float64(depth: ArrayLike | torch.Tensor) -> NDArray[np.float64]:
    if isinstance(depth, torch.Tensor):
        return depth.detach().cpu().double().numpy()
    return np.asarray(depth, np.float64)
