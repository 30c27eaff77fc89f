"""Directions of a linear's input that pass its grid by: a floating-point branch of low rank beside the codes' product.

x W^T = Q(x - x U U^T) (W - W U U^T)^T + (x U) (W U)^T, where U [n, rank] has orthonormal columns and Q is the grid.
What rounding adds grows with E|x|^2 |W|^2 of the parts under the grid, so U takes as much of both as it can: it
minimises tr(P C) tr(P O) for P = 1 - U U^T, C = E[x^T x] and O = W^T W. Its columns are the leading eigenvectors of
C / tr(P C) + O / tr(P O), which subspace iteration finds without any [n, n] matrix.

Where Q is the identity, nothing need be taken off the input: x W'^T + (x U) ((W - W') U)^T for the W' of the codes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from qvggt.quant.model import quantized_linears

STEPS = 24  # of subspace iteration: what is left turns by less than rounding does
TINY = 1e-30


@torch.no_grad()
def branch_basis(x: Tensor, weight: Tensor, rank: int, seed: int) -> Tensor:
    """U [n, rank] for sampled inputs x [rows, n] and weight [out, n]; fp32, deterministic for a seed."""
    x, weight = x.float(), weight.float()
    start = torch.randn(x.shape[1], rank, generator=torch.Generator().manual_seed(seed), device="cpu")
    basis = torch.linalg.qr(start.to(x.device))[0]
    whole = [m.square().sum() for m in (x, weight)]
    for _ in range(STEPS):
        images = [m.T @ (m @ basis) for m in (x, weight)]
        rest = [(t - (basis * i).sum()).clamp_min(TINY) for t, i in zip(whole, images, strict=True)]
        basis = torch.linalg.qr(sum(i / r for i, r in zip(images, rest, strict=True)))[0]
    return basis.contiguous()  # as a checkpoint gives it back: products of other strides differ in the last bit


@torch.no_grad()
def leave_whole_(model: nn.Module) -> None:
    """Let branches beside linears with floating-point inputs take the codes' share along their directions: exact, and
    the input is multiplied as it comes."""
    for _, linear in quantized_linears(model):
        transform, branch = linear.transform, linear.branch
        if linear.format.activation is not None or transform is None or transform.basis is None or branch is None:
            continue
        if not transform.spec.whole:
            transform.spec = replace(transform.spec, whole=True)
            linear.branch = branch - transform.basis.T @ linear.weight_dequantized().T
