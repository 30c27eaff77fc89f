"""Weight rounding that compensates each column's error in the columns after it (GPTQ, Frantar et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qvggt.formats.grid import Grid

LAZY = 128  # input channels rounded before their errors reach the channels after them
AT_ONCE = 1 << 24  # weights, of copies on several grids


class InputMoments:
    """Running second moments X^T X [in, in] of a linear's quantized inputs X, on their device.

    The products of a call are fp32, of a sequence or less, and their sum over the calls is float64: the small GPUs
    multiply float64 at a 64th of their speed, and the error of an fp32 product is lost in the damping.
    """

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        self.matrix = torch.zeros(width, width, dtype=torch.float64, device=device)

    def update(self, x: Tensor) -> None:
        """Add rows x [..., in]."""
        x = x.reshape(-1, x.shape[-1])
        self.matrix += x.T @ x


def gptq_codes(weight: Tensor, scale: Tensor, grid: Grid, moments: InputMoments, damping: float = 0.01) -> Tensor:
    """Codes [out, in] for weight [out, in] on a grid of fixed `scale`, [out, 1] or [out, in].

    Columns are rounded in order of falling input energy; the rounding error of each is moved to those still to
    come through the inverse second moment, damped by `damping` of its mean diagonal. Deterministic.
    """
    return fitted_codes(weight, [scale], grid, moments, damping)[0]


def fitted_codes(
    weight: Tensor, scales: Sequence[Tensor], grid: Grid, moments: InputMoments, damping: float = 0.01
) -> tuple[Tensor, Tensor]:
    """(codes [out, in], which of the scales [out]): each row is rounded as `gptq_codes` does on every one of the grids,
    and takes that which moves its products with the inputs least."""
    diagonal = moments.matrix.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    hessian = moments.matrix[order][:, order].clone()
    mean = float(diagonal.mean())
    hessian.diagonal().add_(damping * mean if mean > 0 else 1.0)
    # upper Cholesky factor of the inverse: row i holds how column i's error moves to the columns after it
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    # transposed: a row is an input channel
    target = weight.double().T[order]
    count, rows = max(1, AT_ONCE // weight.numel()), len(weight)
    best, chosen, least = torch.empty_like(target), order.new_zeros(rows), target.new_full((rows,), torch.inf)
    for first in range(0, len(scales), count):
        some = [scale.double().expand_as(weight).T[order] for scale in scales[first : first + count]]
        codes = _rounded(torch.cat([target] * len(some), 1), torch.cat(some, 1), grid, upper)
        for index, (mine, scale) in enumerate(zip(codes.chunk(len(some), 1), some, strict=True), first):
            if len(scales) == 1:
                best = mine
                continue
            error = target - mine * scale
            moved = ((hessian @ error) * error).sum(0)
            better = moved < least
            least, best = torch.where(better, moved, least), torch.where(better, mine, best)
            chosen = torch.where(better, index, chosen)
    return best[torch.argsort(order)].T.contiguous(), chosen


def _rounded(rest: Tensor, scales: Tensor, grid: Grid, upper: Tensor) -> Tensor:
    """Codes [in, rows] of weights `rest`, which it overwrites. Within a block of channels errors move at once, beyond
    it in one product."""
    codes = torch.empty_like(rest)
    for start in range(0, len(rest), LAZY):
        inner = upper[start : start + LAZY, start : start + LAZY]
        block, errors = rest[start : start + LAZY], torch.empty_like(rest[start : start + LAZY])
        for i, (row, s) in enumerate(zip(block, scales[start : start + LAZY], strict=True)):
            codes[start + i] = grid.round(row, s)
            errors[i] = (row - codes[start + i] * s) / inner[i, i]
            block[i + 1 :].addr_(inner[i, i + 1 :], errors[i], alpha=-1)
        rest[start + LAZY :].addmm_(upper[start : start + LAZY, start + LAZY :].T, errors, alpha=-1)
    return codes
