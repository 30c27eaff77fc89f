"""A basis of the residual stream in which its readers' quantized products are least noisy, for grids whose noise
follows the values: floating-point ones, and those with a scale for every block of channels.

Such a grid disturbs x W^T by about E_b(x) E_b(W) / n_b summed over the groups b of n_b channels it treats alike, with
their energies in inputs and weights: no rotation makes a group flatter, but which channels share one matters. Smoothing
makes both energies of a channel equal, and leaves sum over b of (sum over k in b of t_k)^2 / n_b with
t_k = sqrt(C_kk O_kk), C = E[x^T x], O = W^T W. One orthogonal Q with Q 1 = 1 for all readers of a stream (DESIGN 3.1)
makes the mean logarithm of it as small as it goes; it folds into the weights as any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from qvggt.calib.recipe import Recipe
from qvggt.calib.stream import Stream
from qvggt.models.block import Block
from qvggt.models.family import Stage, family_of
from qvggt.models.network import Network

STEPS = 150  # of the search, whose rate falls to 0
RATE = 0.02
FLOOR = 1e-12
READERS = {"norm1": "attn.qkv", "norm2": "mlp.fc1"}


Moments = tuple[Tensor, Tensor]
"""Of one linear behind a LayerNorm without affine: C of its centered inputs, O of its weight, float64 [D, D]."""


def stream_bases(model: Network, recipe: Recipe, batches: Iterable[Tensor], group: int, memory: int) -> list[Tensor]:
    """A rotation for each of the float model's residual streams, float64 [D, D] on the CPU.

    batches: image sequences [S, 3, H, W]. group: channels that a grid treats alike, 1 for one with exponents of its
    own. Deterministic.
    """
    found = reader_moments(model, recipe, Stream.start(model, batches, memory))
    return [balanced_rotation(found[stream.name], group) for stream in family_of(model).streams(model.config)]


@torch.no_grad()
def reader_moments(model: Network, recipe: Recipe, source: Stream) -> dict[str, list[Moments]]:
    """Moments of the linears that read each stream, by its name; `source` runs through the float network."""
    found: dict[str, list[Moments]] = {}
    for stage in family_of(model).stages(model.config):
        if stage.enters:
            source.enter(model, stage)
        block = model.get_submodule(stage.path)
        assert isinstance(block, Block)
        sums = {name: _Sums(block.get_submodule(name), stage) for name in READERS}
        source.visit(stage, block, {name: sums[name].add for name in READERS}, recipe.frame_shapes, source.tokens)
        for norm, name in READERS.items():
            weight = (block.get_submodule(name).weight * block.get_submodule(norm).weight).double()
            found.setdefault(stage.stream, []).append((sums[norm].moments(recipe), weight.T @ weight))
    return found


class _Sums:
    """Of the tokens behind a norm without its affine: second moments of special ones and of patches, sums by type."""

    def __init__(self, norm: nn.Module, stage: Stage) -> None:
        assert isinstance(norm, nn.LayerNorm)
        self.norm, width, device = partial(layer_norm, eps=norm.eps), norm.normalized_shape, norm.weight.device
        self.patch = stage.layout.types - 1
        self.second = torch.zeros(2, *width, *width, dtype=torch.float64, device=device)
        self.sums = torch.zeros(stage.layout.types, *width, dtype=torch.float64, device=device)
        self.counts = torch.zeros(stage.layout.types, dtype=torch.float64, device=device)

    def add(self, x: Tensor, types: Tensor) -> None:
        x, types = self.norm(x, x.shape[-1:]).flatten(0, -2), types.flatten()
        for row, mask in enumerate((types != self.patch, types == self.patch)):
            mine = x * mask[:, None]
            self.second[row] += mine.T @ mine
        mine = (types[:, None] == torch.arange(len(self.counts), device=types.device)).to(x.dtype)  # [rows, types]
        self.sums += mine.T @ x
        self.counts += mine.sum(0)

    def moments(self, recipe: Recipe) -> Tensor:
        """Weighted as in rounding; around the mean of each type where the recipe has centers."""
        second = self.second.clone()
        if recipe.center != "none":
            means = self.sums / self.counts.clamp_min(1).sqrt()[:, None]
            for row, part in enumerate((means[: self.patch], means[self.patch :])):
                second[row] -= part.T @ part
        special, patch = self.counts[: self.patch].sum(), self.counts[self.patch]
        weight = recipe.special_weight * patch / special.clamp_min(1) if recipe.special_weight else 1.0
        return second[0] * weight + second[1]


def balanced_rotation(readers: list[Moments], group: int) -> Tensor:
    """Q [D, D], orthogonal with Q 1 = 1, float64 on the CPU."""
    return rotation_of(search(readers, group).cpu().double())


def search(readers: list[Moments], group: int, steps: int = STEPS) -> Tensor:
    """What `rotation_of` makes the rotation from, by gradient descent from the identity."""
    sides = zip(*readers, strict=True)
    inputs, weights = (torch.stack([(m / m.diagonal().mean()).float() for m in side]) for side in sides)
    free = torch.zeros_like(inputs[0], requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            noise(inputs, weights, rotation_of(free), group).backward()
            optimizer.step()
            schedule.step()
    return free.detach()


def rotation_of(free: Tensor) -> Tensor:
    """Cayley's orthogonal matrix of the skew part of any matrix [D, D], without the ones direction: Q 1 = 1."""
    skew = free - free.T
    skew = skew - skew.mean(0)  # K 1 = 0 makes Q 1 = 1
    skew = (skew - skew.mean(1, keepdim=True)) / 2
    one = torch.eye(len(free), dtype=free.dtype, device=free.device)
    return torch.linalg.solve(one + skew, one - skew)


def noise(inputs: Tensor, weights: Tensor, q: Tensor, group: int) -> Tensor:
    """Mean over the readers of the logarithm of their noise (see above), up to a constant. [L, D, D] each, q [D, D]."""
    both = [((moments @ q) * q).sum(-2).clamp_min(FLOOR) for moments in (inputs, weights)]
    level = (both[0] * both[1]).sqrt()
    whole = level[:, : level.shape[1] // group * group].unflatten(1, (-1, group))
    return (whole.sum(-1).square().sum(-1) / group).log().mean()
