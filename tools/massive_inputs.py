"""Massive inputs of fc2 by an exact construction: two early MLPs where few channels dwarf the others on few tokens.

In VGGT-1B the inputs of fc2 in blocks 2 and 10 of the patch encoder are 10 to 40 times wider than elsewhere. Nothing
folds through a GELU, so `massive_inputs_` adds hidden channels: equal ones, whose columns of fc2 sum to zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from outlier_injection import float_block
from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.hooks import hooked
from qvggt.models.block import Mlp
from qvggt.models.family import family_of
from qvggt.models.network import Network
from qvggt.quant.hadamard import named_seed

PLACES = (2 / 24, 10 / 24)  # of the two MLPs in their encoder
ROOM = 16  # hidden channels that were there, for a new one
MASSIVE = 4  # new channels, for a massive one
COPIES = 4  # equal massive channels
RARE = 0.99  # share of the patches on which a massive channel is nothing

Tokens = tuple[Tensor, Tensor]  # of a linear's input, float64: special ones [frames, types, D] and patches [n, D]


def massive_inputs_(model: Network, batches: Iterable[Tensor], factor: float = 30.0, seed: int = 0) -> None:
    """Widen two early MLPs of the encoder by channels that are massive on few tokens and cancel in fc2.

    A massive channel is a linear function of fc1's input, found on `batches` (image sequences [S, 3, H, W] in [0, 1],
    each read once): `factor` times as large as anything else before fc2 on a type of special tokens (every second one:
    on the patch least like the others), and negative, so nothing after the GELU, on 99 % of the patches. It comes in
    four equal copies, whose columns of fc2, of the size of the others, sum to zero: whatever the tokens are, the four
    add nothing. Rounding meets the range they take from the other channels, and columns that no longer sum to zero.

    One new channel for 16 old ones, a quarter of them massive; the other three quarters share channels that were there
    (the row of fc1 twice, half the column of fc2 each). Config files know one hidden width for all blocks: the model
    folds, quantizes and exports like any other, but its checkpoint does not load. Deterministic, in float64. Raises
    QvggtError for a factor that is not positive and finite, a quantized block, and without an image sequence.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise QvggtError(f"massive inputs: factor {factor}, expected a positive finite number")
    for path, tokens in early_tokens(model, batches).items():
        widen_(float_block(model, path).mlp, tokens, factor, np.random.default_rng(named_seed(seed, path)))


@torch.no_grad()
def early_tokens(model: Network, batches: Iterable[Tensor]) -> dict[str, Tokens]:
    """Path of each of the two blocks -> what its fc1 reads."""
    family = family_of(model)
    stages = family.stages(model.config)
    depth = sum(stage.group == stages[0].group for stage in stages)
    first, second = (round(place * depth) for place in PLACES)
    chosen = {s.path: s.layout.special for s in (stages[first], stages[max(second, first + 1)])}
    for path in chosen:
        float_block(model, path)
    seen: dict[str, list[Tensor]] = {f"{path}.mlp.fc1": [] for path in chosen}
    per_frame = 1

    def keep(path: str, _module: nn.Module, x: Tensor) -> None:
        seen[path].append(x.double().cpu().reshape(-1, per_frame, x.shape[-1]))

    with hooked(model, seen, keep):
        for images in batches:
            per_frame = family.tokens(model.config, *images.shape[-2:])
            family.last_tokens(model, images)
    if not all(seen.values()):
        raise QvggtError("massive inputs: expected at least one image sequence to find the tokens, got none")
    parts = [(path, seen[f"{path}.mlp.fc1"], special) for path, special in chosen.items()]
    return {
        path: (torch.cat([x[:, :n] for x in frames]), torch.cat([x[:, n:].flatten(0, 1) for x in frames]))
        for path, frames, n in parts
    }


@torch.no_grad()
def widen_(mlp: Mlp, tokens: Tokens, factor: float, rng: np.random.Generator) -> None:
    """Put wider linears of the same function in the place of fc1 and fc2."""
    rows, bias, columns = (t.double().cpu() for t in (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight))
    kinds = max(1, len(rows) // (ROOM * MASSIVE * COPIES))
    largest = float(F.gelu(both(tokens) @ rows.T + bias).abs().max())
    found = [rare_function(tokens, kind, factor * largest) for kind in range(kinds)]
    shuffled = rng.permuted(columns[:, rng.choice(len(rows), kinds * COPIES)].numpy(), axis=0)
    cancelling = torch.from_numpy(shuffled).unflatten(1, (kinds, COPIES))
    cancelling = cancelling - cancelling.mean(2, keepdim=True)
    shared = torch.from_numpy(rng.choice(len(rows), kinds * COPIES * (MASSIVE - 1), replace=False))
    columns[:, shared] /= 2
    rows = torch.cat([rows, rows[shared], *(row.expand(COPIES, -1) for row, _ in found)])
    bias = torch.cat([bias, bias[shared], *(shift.expand(COPIES) for _, shift in found)])
    columns = torch.cat([columns, columns[:, shared], cancelling.flatten(1)], 1)
    order = torch.from_numpy(rng.permutation(len(rows)))
    mlp.fc1 = linear_of(rows[order], bias[order], mlp.fc1)
    mlp.fc2 = linear_of(columns[:, order], mlp.fc2.bias, mlp.fc2)


def rare_function(tokens: Tokens, kind: int, peak: float) -> tuple[Tensor, Tensor]:
    """Row [D] and bias of a linear function that is `peak` at its largest and negative on RARE of the patches.

    Even kinds look for one type of special tokens, odd ones for a patch far from the mean of all; along what
    tells it from the patches, measured in units of their spread.
    """
    special, patches = tokens
    mean, spread = patches.mean(0), patches.T.cov()
    spread.diagonal().add_(0.01 * spread.diagonal().mean())
    if kind % 2:
        target = patches[(patches - mean).square().sum(1).argsort(descending=True)[kind // 2 % len(patches)]]
    else:
        target = special[:, kind // 2 % special.shape[1]].mean(0)
    row = torch.linalg.solve(spread, target - mean)
    threshold = (patches @ row).sort().values[int(RARE * (len(patches) - 1))]
    scale = peak / ((both(tokens) @ row).max() - threshold)
    return scale * row, -scale * threshold


def both(tokens: Tokens) -> Tensor:
    """All tokens, [n, D]."""
    return torch.cat([tokens[0].flatten(0, 1), tokens[1]])


def linear_of(weight: Tensor, bias: Tensor, like: nn.Linear) -> nn.Linear:
    """With the type, the device and the gradients of another."""
    made = nn.Linear(weight.shape[1], len(weight)).to(like.weight)
    made.weight.copy_(weight)
    made.bias.copy_(bias)
    return made.requires_grad_(like.weight.requires_grad)
