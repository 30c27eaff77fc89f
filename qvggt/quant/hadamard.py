"""Orthogonal matrices with flat entries, float64 (DESIGN 3.1, 3.2).

An outlier in one channel leaves a rotation spread over all of them; the flatter the entries, the lower its peak.
All of them are found on the CPU, whatever the default device, so that a seed means one matrix on every machine.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

R4 = ((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))
FLATTENING_STEPS = 100
TOLERANCE = 1e-12  # of the entries of Q^T Q and Q 1; rounding leaves 1e-14


def named_seed(seed: int, name: str) -> int:
    """An independent seed for each `name`, a 32-bit integer."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])


def power(width: int, base: int) -> int | None:
    """k with base^k = width, or None."""
    k = 0
    while width > 1 and width % base == 0:
        width, k = width // base, k + 1
    return k if width == 1 else None


def regular_hadamard(width: int) -> Tensor:
    """Kronecker power of the 4 x 4 regular Hadamard matrix, [width, width], entries +-1/sqrt(width), rows sum to 1.

    Raises ValueError unless `width` is a power of four.
    """
    k = power(width, 4)
    if k is None:
        raise ValueError(f"width {width} is no power of four")
    q = torch.ones(1, 1, dtype=torch.float64, device="cpu")
    for _ in range(k):
        q = torch.kron(q, torch.tensor(R4, dtype=torch.float64, device="cpu") / 2)
    return q


def sylvester_hadamard(width: int) -> Tensor:
    """Sylvester's Hadamard matrix over sqrt(width), [width, width], symmetric. ValueError unless a power of two."""
    k = power(width, 2)
    if k is None:
        raise ValueError(f"width {width} is no power of two")
    h = torch.ones(1, 1, dtype=torch.float64, device="cpu")
    for _ in range(k):
        h = torch.cat([torch.cat([h, h], dim=1), torch.cat([h, -h], dim=1)])
    return h / width**0.5  # one division: 2^-k stays exact for even k


def random_orthogonal(width: int, rng: np.random.Generator) -> Tensor:
    """Uniform over the orthogonal group: QR of a Gaussian matrix, with the signs of R's diagonal taken out."""
    q, r = torch.linalg.qr(torch.from_numpy(rng.standard_normal((width, width))))
    return (q * r.diagonal().sign()).contiguous()


def complement_of_ones(width: int) -> Tensor:
    """Orthonormal basis of the vectors whose entries sum to 0, [width, width - 1], width >= 2."""
    v = torch.full((width,), width**-0.5, dtype=torch.float64, device="cpu")
    v[0] -= 1  # the reflection along v takes the first unit vector to the ones; its other columns remain
    return (torch.eye(width, dtype=torch.float64, device="cpu") - 2 * torch.outer(v, v) / (v @ v))[:, 1:]


def flat_rotation(width: int, rng: np.random.Generator) -> Tensor:
    """Q = 11^T/d + U R U^T with near-flat entries (the largest about 1.4/sqrt(d)), for any width d.

    U spans the complement of the ones and R is orthogonal, which is the general form of an orthogonal Q with Q 1 = 1.
    From a random R, two projections alternate: clip the entries to +-1/sqrt(d); take the nearest Q of that form.
    """
    if width == 1:
        return torch.ones(1, 1, dtype=torch.float64, device="cpu")
    u = complement_of_ones(width)
    level = width**-0.5
    q = u @ random_orthogonal(width - 1, rng) @ u.T + 1 / width
    for _ in range(FLATTENING_STEPS):
        left, _, right = torch.linalg.svd(u.T @ q.clamp(-level, level) @ u)
        q = u @ left @ right @ u.T + 1 / width
    return q


def residual_rotation(width: int, seed: int) -> Tensor:
    """Seeded Q [width, width], orthogonal with Q 1 = 1: LayerNorm without affine commutes with x -> x Q (DESIGN 3.1).

    A power of four gives a regular Hadamard matrix with its rows and columns permuted (a sign flip would break
    Q 1 = 1): every entry is +-1/sqrt(width). Another width takes the largest Kronecker factor of that kind, and a
    `flat_rotation` of what is left, at least 3 wide since the widths 1 and 2 have nothing but permutations.
    """
    rng = np.random.default_rng([seed, width])
    core = width
    while core % 4 == 0 and (core > 8 or core == 4):
        core //= 4
    q = torch.kron(regular_hadamard(width // core), flat_rotation(core, rng))
    q = q[torch.from_numpy(rng.permutation(width))][:, torch.from_numpy(rng.permutation(width))].contiguous()
    check_residual_rotation(q)
    return q


def head_rotation(head_dim: int, seed: int) -> Tensor:
    """Seeded orthogonal [head_dim, head_dim]: signs times Sylvester's Hadamard; no power of two: random orthogonal."""
    rng = np.random.default_rng([seed, head_dim])
    if power(head_dim, 2) is None:
        q = random_orthogonal(head_dim, rng)
    else:
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], head_dim))
        q = signs[:, None] * sylvester_hadamard(head_dim)
    check_rotation(q)
    return q


def check_rotation(q: Tensor) -> None:
    """AssertionError unless q is orthogonal to rounding."""
    if not torch.allclose(q.T @ q, torch.eye(len(q), dtype=q.dtype, device=q.device), rtol=0, atol=TOLERANCE):
        raise AssertionError(f"rotation of width {len(q)} is not orthogonal")


def check_residual_rotation(q: Tensor) -> None:
    """AssertionError unless q is orthogonal and q 1 = 1, to rounding."""
    check_rotation(q)
    if not torch.allclose(q.sum(1), q.new_ones(()), rtol=0, atol=TOLERANCE):
        raise AssertionError(f"residual rotation of width {len(q)}: Q 1 is not 1")
