"""Weight rounding that compensates each column's error in the columns after it (GPTQ, Frantar et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from qvggt.quant.quantizer import qmax


class InputMoments:
    """Running second moment X^T X of a linear's inputs, float64 [in, in]."""

    def __init__(self, width: int) -> None:
        self.matrix = torch.zeros(width, width, dtype=torch.float64)
        self.rows = 0

    def update(self, x: Tensor) -> None:
        x = x.reshape(-1, x.shape[-1]).double()
        self.matrix += x.T @ x
        self.rows += len(x)


def gptq_codes(weight: Tensor, scale: Tensor, bits: int, moments: InputMoments, damping: float = 0.01) -> Tensor:
    """Integer codes [out, in] for weight [out, in] on a fixed per-row grid of step `scale` [out, 1].

    Columns are rounded in order of falling input energy; the rounding error of each is spread over those still to
    come through the inverse second moment, damped by `damping` of its mean diagonal. Deterministic.
    """
    q = qmax(bits)
    diagonal = moments.matrix.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    hessian = moments.matrix[order][:, order].clone()
    mean = float(diagonal.mean())
    hessian.diagonal().add_(damping * mean if mean > 0 else 1.0)
    # upper Cholesky factor of the inverse: row i holds how column i's error moves to the columns after it
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    rest = weight.double()[:, order].clone()
    step = scale.double()
    codes = torch.empty_like(rest)
    for i in range(rest.shape[1]):
        column = rest[:, i : i + 1]
        codes[:, i : i + 1] = (column / step).round().clamp(-q, q)
        error = (column - codes[:, i : i + 1] * step) / upper[i, i]
        rest[:, i + 1 :] -= error * upper[i, i + 1 :]
    return codes[:, torch.argsort(order)]
