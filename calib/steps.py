"""What a linear spends at run time beside its product, decided from what it sees in calibration (DESIGN 3.9).

A range per token, centers and the online transform of fc2 cost time in every runtime. Four-bit grids need them all; of
eight bits most linears reach the same outputs without. So the steps a recipe calls "needed" are taken one by one, the
cheapest first, until the rounding of the linear disturbs the outputs of no type of tokens by more than `NEED_DB`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from qvggt.calib.learnable import LearnableLinear
from qvggt.calib.recipe import Recipe
from qvggt.calib.stream import Stream
from qvggt.formats.linear_format import LinearFormat
from qvggt.models.block import Block
from qvggt.models.family import Stage
from qvggt.models.token_types import token_types
from qvggt.quant.hadamard import named_seed
from qvggt.quant.kronecker import KroneckerHadamard
from qvggt.rotation.cost import branch_macs, rank_of

FC2 = "mlp.fc2"  # its input comes out of a GELU, which nothing folds through
BOUNDED = ("attn.qkv", "mlp.fc1")  # out of a LayerNorm; what attention averages may lie elsewhere in other images
NEED_DB = 30.0  # signal over rounding noise in the outputs of the worst type of tokens
WORTH_DB = 20.0  # that a branch has to gain, times its share of the product: 1 dB for 5 %
ROWS = 1024  # patches, and tokens of every other type, that are looked at


@dataclass(frozen=True)
class Steps:
    """Steps of one linear.

    constant_range: one range for all tokens in place of one per token, where the format has ranges of tokens; saves
    work. center: the constants of special tokens taken off. scale: a factor per channel, which costs nothing but before
    fc2. rotation: an online Kronecker Hadamard. rank: of the branch that passes the grid by. db: signal over noise in
    the outputs with these steps, None where there was nothing to decide.
    """

    constant_range: bool = False
    center: bool = False
    scale: bool = False
    rotation: bool = False
    rank: int = 0
    db: float | None = None

    def format(self, format: LinearFormat) -> LinearFormat:
        """The linear's own, from the one the scheme gives it."""
        return format.with_constant_range() if self.constant_range else format

    def additions(self, name: str, format: LinearFormat, width: int, out: int) -> float:
        """Operations a patch token costs beside the product, in multiply-adds of the product.

        One per element that is read or written: the range of a token is looked for, divided by and multiplied back.
        """
        elements = 0
        if self.format(format).mode == "dynamic":
            elements += 2 * width + out
        if self.rotation:
            elements += width * sum(KroneckerHadamard(width, 0).factors)
        if name == FC2:
            elements += width * (self.scale + self.center)
        elements += branch_macs(self.rank, width, out)
        return elements / (width * out)


@dataclass(frozen=True)
class Samples:
    """Inputs [rows, in] of a linear, the types of these tokens [rows], and the mean inputs [types, in] or None."""

    rows: Tensor
    types: Tensor
    means: Tensor | None


def choose_steps(
    block: Block, stage: Stage, formats: dict[str, LinearFormat], source: Stream, recipe: Recipe, seed: int
) -> tuple[dict[str, Steps], dict[str, Tensor]]:
    """Steps of every linear of a float block, and the mean inputs [types, in] where the recipe has centers.

    source: inputs of the block. Linears with nothing to decide are not measured.
    """
    options = {name: list(_options(name, format, recipe)) for name, format in formats.items()}
    ranks = {name: branch_rank(block.get_submodule(name), recipe) for name in formats}
    centered = list(formats) if recipe.center != "none" else []
    means = source.type_means(stage, block, centered, recipe.frame_shapes) if centered else {}
    undecided = [name for name, choices in options.items() if len(choices) > 1 or ranks[name]]
    samples = _sample(block, stage, undecided, source, recipe)
    chosen = {name: choices[0] for name, choices in options.items()}
    for name, (rows, types) in samples.items():
        linear = block.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        seen, own = Samples(rows, types, means.get(name)), named_seed(seed, f"{stage.path}.{name}")

        def measure(
            steps: Steps, name: str = name, linear: nn.Linear = linear, seen: Samples = seen, own: int = own
        ) -> float:
            off = taken_off(name, steps, formats[name], seen.means, recipe)
            return _measure(attach(linear, formats[name], steps, off, own), linear, seen, recipe.alpha, steps.rank)

        chosen[name] = _cheapest(options[name], measure)
        if ranks[name] and (chosen[name].db or 0.0) < NEED_DB:
            branch = replace(chosen[name], rank=ranks[name])
            chosen[name] = _worth(chosen[name], replace(branch, db=measure(branch)), name, linear, formats[name])
    return chosen, means


def branch_rank(linear: nn.Module, recipe: Recipe) -> int:
    """Directions that may pass the grids of a linear by."""
    assert isinstance(linear, nn.Linear)
    return rank_of(recipe.branch, linear.in_features, linear.out_features)


def _worth(without: Steps, branch: Steps, name: str, linear: nn.Linear, format: LinearFormat) -> Steps:
    """The steps with a branch where it gains enough for what it costs."""
    size = linear.in_features, linear.out_features
    cost = branch.additions(name, format, *size) - without.additions(name, format, *size)
    assert without.db is not None
    assert branch.db is not None
    return branch if branch.db - without.db >= WORTH_DB * cost else without


def foldable(recipe: Recipe) -> tuple[str, ...]:
    """Linears whose scale and constant the layer before takes over: a norm, or the value rows of qkv."""
    return () if recipe.rotation == "linear" else ("attn.qkv", "attn.proj", "mlp.fc1")


def taken_off(name: str, steps: Steps, format: LinearFormat, means: Tensor | None, recipe: Recipe) -> Tensor | None:
    """The mean inputs [types, in] a linear has use for: for its centers, or for a constant that folds away.

    Not what attention averages on a constant range: that lies elsewhere in other images, beyond what is left of the
    range without it, where the grid leaves no room.
    """
    if steps.center or format.activation is None:
        return means
    loose = name not in BOUNDED and steps.format(format).observed and not format.has_room
    return means if name in foldable(recipe) and not loose else None


def attach(linear: nn.Linear, format: LinearFormat, steps: Steps, means: Tensor | None, seed: int) -> LearnableLinear:
    """The learnable form of a float linear with these steps.

    means [types, in]: mean inputs, the last row that of patches; None takes nothing off.
    """
    rotation = KroneckerHadamard(linear.in_features, seed).to(linear.weight.device) if steps.rotation else None
    learnable = LearnableLinear(linear, steps.format(format), rotation)
    learnable.log_scale.requires_grad_(steps.scale)
    if means is not None and steps.center:
        learnable.start_center(means)
    elif means is not None:
        learnable.start_shift(means[-1])
    return learnable


def _options(name: str, format: LinearFormat, recipe: Recipe) -> Iterator[Steps]:
    """What the recipe allows, from cheap to dear."""
    scales: tuple[bool, ...] = (recipe.smooth,)
    rotations: tuple[bool, ...] = (recipe.rotation == "linear",)
    if name == FC2 and recipe.rotation != "linear":
        if recipe.online == "needed":
            # an error that follows the values is the same in any basis
            levels = format.activation is not None and not format.has_room
            rotations = (False, True) if levels else (False,)
            scales = rotations if recipe.smooth and levels else scales
        else:
            rotations = (recipe.online != "none",)
    centers: tuple[bool, ...] = (False,)
    if recipe.centers(format):
        centers = (False, True) if recipe.center == "needed" else (True,)
    if recipe.constant_ranges and (name in BOUNDED or format.has_room) and format.mode == "dynamic":
        yield Steps(constant_range=True, center=centers[0], scale=scales[0], rotation=rotations[0])
    for rotation, center, scale in itertools.product(rotations, centers, scales):
        yield Steps(False, center, scale, rotation)


def _cheapest(options: list[Steps], measure: Callable[[Steps], float]) -> Steps:
    """The first that is enough; the last, which has all steps, where not even that one is."""
    last = replace(options[-1], db=measure(options[-1]))
    assert last.db is not None
    for steps in options[:-1] if last.db >= NEED_DB else []:
        if (db := measure(steps)) >= NEED_DB:
            return replace(steps, db=db)
    return last


@torch.no_grad()
def _measure(learnable: LearnableLinear, linear: nn.Linear, seen: Samples, alpha: float, rank: int) -> float:
    """Signal over rounding noise in the outputs of the worst type of tokens, dB; rounded to nearest, clips at the
    extremes."""
    with token_types(seen.types):
        x = learnable.centered(seen.rows)
        if learnable.log_scale.requires_grad:
            rotated = x if learnable.rotation is None else learnable.rotation(x)
            learnable.start_scale(rotated.abs().amax(0), alpha)
        if rank:
            learnable.start_branch(x, rank, 0)
        learnable.start_at_extremes(x, 1 - 1e-7)
        noise = (learnable(seen.rows) - linear(seen.rows)).double().square().sum(-1)
    signal = (seen.rows @ linear.weight.T).double().square().sum(-1)
    none = signal.new_zeros(int(seen.types.max()) + 1)
    signals, noises = (none.index_add(0, seen.types, energy) for energy in (signal, noise))
    worst = float((10 * (signals / noises.clamp_min(1e-30)).log10()).where(signals > 0, math.inf).min())
    if seen.rows.is_meta:
        return float(rank)  # no values to go by: every branch is worth it, so that a plan counts what it costs
    return worst if math.isfinite(worst) else 0.0


@torch.no_grad()
def _sample(
    block: Block, stage: Stage, names: list[str], source: Stream, recipe: Recipe
) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs [rows, in] of these linears and their types [rows]: `ROWS` tokens or so of every type, evenly taken from
    the sequences."""
    if not names:
        return {}
    taken: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}

    def keep(name: str, x: Tensor, types: Tensor) -> None:
        flat, rows = types.flatten(), x.flatten(0, -2)
        share = source.share(ROWS, len(rows))
        places = [(flat == kind).nonzero()[:, 0] for kind in range(stage.layout.types)]
        index = torch.cat([place[:: max(1, len(place) // share)] for place in places])
        taken[name].append((rows[index], flat[index]))

    source.visit(stage, block, {name: partial(keep, name) for name in names}, recipe.frame_shapes)
    return {name: (torch.cat([r for r, _ in kept]), torch.cat([t for _, t in kept])) for name, kept in taken.items()}
