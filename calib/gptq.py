"""Weight rounding that compensates each column's error in the columns after it (GPTQ, Frantar et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from qvggt.formats.grid import Grid

LAZY = 128  # input channels rounded before their errors reach the channels after them


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
    diagonal = moments.matrix.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    hessian = moments.matrix[order][:, order].clone()
    mean = float(diagonal.mean())
    hessian.diagonal().add_(damping * mean if mean > 0 else 1.0)
    # upper Cholesky factor of the inverse: row i holds how column i's error moves to the columns after it
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    # transposed: a row is an input channel. Within a block of channels errors move at once, beyond it in one product
    rest, scales = (t.double().expand_as(weight).T[order].contiguous() for t in (weight, scale))
    codes = torch.empty_like(rest)
    for start in range(0, len(rest), LAZY):
        inner = upper[start : start + LAZY, start : start + LAZY]
        block, errors = rest[start : start + LAZY], torch.empty_like(rest[start : start + LAZY])
        for i, (row, s) in enumerate(zip(block, scales[start : start + LAZY], strict=True)):
            codes[start + i] = grid.round(row, s)
            errors[i] = (row - codes[start + i] * s) / inner[i, i]
            block[i + 1 :].addr_(inner[i, i + 1 :], errors[i], alpha=-1)
        rest[start + LAZY :].addmm_(upper[start : start + LAZY, start + LAZY :].T, errors, alpha=-1)
    return codes[torch.argsort(order)].T.contiguous()
