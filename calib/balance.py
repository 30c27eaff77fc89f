"""The change of basis that makes a quantized product least noisy (the matrix form of smoothing).

A linear's input x and weight W may be replaced by x A and W A^-T for any invertible A. With grids whose noise is white
and proportional to energy, the error of the product grows with E|x A|^2 |W A^-T|^2 = tr(C G) tr(O G^-1), where
C = E[x^T x], O = W^T W and G = A A^T. The least value is reached at the geometric mean of C^-1 and O,
G = C^-1/2 (C^1/2 O C^1/2)^1/2 C^-1/2, for which both traces equal tr((C^1/2 O C^1/2)^1/2); a diagonal G gives smoothing
scales s^4 = C_kk / O_kk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qvggt.quant.hadamard import head_rotation

FLOOR = 1e-7  # of the largest eigenvalue: directions the data never shows must not blow up


def power_of(matrix: Tensor, exponent: float) -> Tensor:
    """Symmetric positive matrix to a real power, its eigenvalues floored. [n, n] float64."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(FLOOR * float(values.max()) + 1e-30)
    return vectors @ (values**exponent)[:, None].mul(vectors.T)


def geometric_mean(c: Tensor, o: Tensor) -> Tensor:
    """G minimising tr(C G) tr(O G^-1): the geometric mean of C^-1 and O. [n, n] float64."""
    half, inverse = power_of(c, 0.5), power_of(c, -0.5)
    return inverse @ power_of(half @ o @ half, 0.5) @ inverse


def balanced_basis(c: Tensor, o: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """(A, A^-1) for second moments c of the input and o = W^T W: G^1/2, then a Hadamard that levels the channels."""
    g = geometric_mean(c, o)
    h = head_rotation(len(c), seed)
    return power_of(g, 0.5) @ h, h.T @ power_of(g, -0.5)
