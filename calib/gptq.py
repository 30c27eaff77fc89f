"""Weight rounding that compensates each column's error in the columns after it (GPTQ, Frantar et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from qvggt.quant.quantizer import qmax


class InputMoments:
    """Running second moments of a linear's quantized inputs X and of the float inputs Z they stand for, float64.

    matrix: X^T X [in, in]. cross: Z^T X [in, in].
    """

    def __init__(self, width: int) -> None:
        self.matrix = torch.zeros(width, width, dtype=torch.float64)
        self.cross = torch.zeros(width, width, dtype=torch.float64)
        self.rows = 0

    def update(self, x: Tensor, z: Tensor) -> None:
        """Add paired rows x, z [..., in]."""
        x, z = (t.reshape(-1, t.shape[-1]).double() for t in (x, z))
        self.matrix += x.T @ x
        self.cross += z.T @ x
        self.rows += len(x)


def compensated(weight: Tensor, moments: InputMoments, damping: float) -> Tensor:
    """The weight W' that best maps the quantized inputs to the float outputs: min |X W'^T - Z W^T|^2 + d |W' - W|^2.

    d is `damping` times the mean diagonal of X^T X; large values return `weight`. [out, in], float64 arithmetic.
    """
    c = moments.matrix.clone()
    c.diagonal().add_(damping * float(c.diagonal().mean()) + 1e-12)
    difference = weight.double() @ (moments.cross - moments.matrix)
    return (weight.double() + torch.linalg.solve(c, difference.T).T).to(weight.dtype)


def gptq_codes(weight: Tensor, scale: Tensor, bits: int, moments: InputMoments, damping: float = 0.01) -> Tensor:
    """Integer codes [out, in] for weight [out, in] on a fixed grid of step `scale`, [out, 1] or [out, in].

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
    steps = scale.double().expand_as(weight)[:, order]
    codes = torch.empty_like(rest)
    for i in range(rest.shape[1]):
        column, step = rest[:, i : i + 1], steps[:, i : i + 1]
        codes[:, i : i + 1] = (column / step).round().clamp(-q, q)
        error = (column - codes[:, i : i + 1] * step) / upper[i, i]
        rest[:, i + 1 :] -= error * upper[i, i + 1 :]
    return codes[:, torch.argsort(order)]
