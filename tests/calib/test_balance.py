"""The balanced basis is the least noisy one, and changes nothing but noise."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt.calib.balance import balanced_basis, geometric_mean


def moments(width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(3 * width, width, generator=generator, dtype=torch.float64) for _ in range(2))
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return (x @ mix).T @ (x @ mix) / len(x), w.T @ w


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_no_other_basis_is_less_noisy(width: int, seed: int) -> None:
    c, o = moments(width, seed)

    def noise(a: torch.Tensor, inverse: torch.Tensor) -> float:
        return float((a.T @ c @ a).trace() * (inverse @ o @ inverse.T).trace())

    basis = balanced_basis(c, o, seed)
    best = noise(*basis)
    torch.testing.assert_close(basis[0] @ basis[1], torch.eye(width, dtype=torch.float64), atol=1e-6, rtol=0)
    generator = torch.Generator().manual_seed(seed)
    for scale in (0.01, 0.3):
        a = basis[0] @ (torch.eye(width) + scale * torch.randn(width, width, generator=generator)).double()
        assert noise(a, torch.linalg.inv(a)) >= best * (1 - 1e-6)
    identity = torch.eye(width, dtype=torch.float64)
    assert best <= noise(identity, identity) * (1 + 1e-6)


def test_geometric_mean_solves_its_equation() -> None:
    """G C G = O, what defines the geometric mean of C^-1 and O."""
    c, o = moments(8, 0)
    g = geometric_mean(c, o)
    torch.testing.assert_close(g @ c @ g, o, atol=1e-5 * float(o.abs().max()), rtol=0)
