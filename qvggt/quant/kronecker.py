"""Online rotation before fc2, where nothing folds through the GELU (DESIGN 3.4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.quant.hadamard import head_rotation, power, sylvester_hadamard


def kronecker_factors(width: int) -> tuple[int, int]:
    """The most square (a, b) with a * b = width and a <= b: powers of two when the width is one.

    512 -> 16, 32 and 4096 -> 64, 64.
    """
    a = next(a for a in range(int(width**0.5), 0, -1) if width % a == 0)
    return a, width // a


class KroneckerHadamard(nn.Module):
    """x [..., n] -> x diag(signs) (L kron R), as two small matmuls on x viewed as [..., a, b].

    n (a + b) multiply-adds a token instead of n^2. L and R are Sylvester's Hadamard matrices; a factor that is no
    power of two is a random orthogonal matrix. Buffers, kept in the state dict: `signs` [n], `left` [a, a],
    `right` [b, b]. Fold the inverse into the linear that follows by `rotate_weight`.
    """

    signs: Tensor
    left: Tensor
    right: Tensor

    def __init__(self, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if width < 1:
            raise QvggtError(f"online rotation: width {width}, expected 1 or more")
        self.width = width
        self.factors = kronecker_factors(width)
        signs = np.random.default_rng([seed, width]).choice([-1.0, 1.0], width)
        self.register_buffer("signs", torch.tensor(signs, dtype=dtype))
        for name, size in zip(("left", "right"), self.factors, strict=True):
            factor = head_rotation(size, seed) if power(size, 2) is None else sylvester_hadamard(size)
            self.register_buffer(name, factor.to(self.signs))

    def forward(self, x: Tensor) -> Tensor:
        x = (x * self.signs).unflatten(-1, self.factors)  # [..., a, b]
        return (self.left.T @ x @ self.right).flatten(-2)

    def matrix(self) -> Tensor:
        """The dense [n, n] matrix K with forward(x) = x K."""
        return self.signs[:, None] * torch.kron(self.left, self.right)

    def rotate_weight(self, weight: Tensor) -> Tensor:
        """W K for a weight [out, n], computed in float64: (x K) (W K)^T = x W^T."""
        signs, left, right = (buffer.double() for buffer in (self.signs, self.left, self.right))
        rows = (weight.double() * signs).unflatten(-1, self.factors)
        return (left.T @ rows @ right).flatten(-2).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"{self.width} = {self.factors[0]} x {self.factors[1]}"
