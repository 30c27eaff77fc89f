"""Calibration of one transformer block: scales and clips learned on its output error, then rounded and folded."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from qvggt.calib.gptq import InputMoments, gptq_codes
from qvggt.calib.half import half_attention
from qvggt.calib.learnable import LearnableLinear
from qvggt.calib.recipe import Recipe
from qvggt.calib.steps import Steps, attach, choose_steps, foldable, taken_off
from qvggt.calib.stream import Stream
from qvggt.device import device_of
from qvggt.formats.grid import IntegerGrid
from qvggt.formats.linear_format import LinearFormat
from qvggt.models.block import Block
from qvggt.models.family import LINEARS, Stage
from qvggt.quant.hadamard import named_seed
from qvggt.rotation.smoothing import fold_smoothing_

Inputs = tuple[Tensor, Tensor, Tensor]
SAMPLE_ROWS = 2048  # tokens kept per linear to start scales and clips from


@dataclass(frozen=True)
class BlockReport:
    """Relative output error of a block on its calibration inputs: at the start, after learning, after rounding; and
    what its linears spend at run time."""

    start: float
    learned: float
    final: float
    steps: Mapping[str, Steps] = field(default_factory=dict)


def calibrate_block(
    block: Block,
    stage: Stage,
    formats: dict[str, LinearFormat],
    goals: Stream,
    source: Stream,
    recipe: Recipe,
    seed: int,
) -> tuple[Block, BlockReport]:
    """Quantize one float block, on the device it is on; returns the block to use from here on, and its errors.

    `formats` maps LINEARS names to number formats (absent ones stay float). `source`: inputs the quantized block will
    see; `goals`: the outputs it must match, those of the float block on float inputs (`Stream.through`).
    """
    with half_attention(recipe.bf16):
        quantized = copy.deepcopy(block).float()
        generator = torch.Generator().manual_seed(named_seed(seed, stage.path))
        steps, means = choose_steps(block, stage, formats, source, recipe, seed)
        learnables = {}
        for name in (name for name in LINEARS if name in formats):
            linear = quantized.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            off = taken_off(name, steps[name], formats[name], means.get(name), recipe)
            learnables[name] = attach(linear, formats[name], steps[name], off, named_seed(seed, f"{stage.path}.{name}"))
            quantized.set_submodule(name, learnables[name])
        inputs = _record(block, learnables, stage, source, recipe)
        for name, learnable in learnables.items():
            smooth = recipe.replace(smooth=steps[name].scale)
            own = named_seed(seed, f"{stage.path}.{name} branch")
            _start(learnable, block.get_submodule(name), inputs.pop(name), smooth, (steps[name].rank, own))
        start = _error(quantized, stage, goals, source, recipe)
        learned = start
        if recipe.epochs:
            _learn(quantized, stage, goals, source, recipe, generator)
            learned = _error(quantized, stage, goals, source, recipe)
        if recipe.rounding == "gptq":
            _round(quantized, learnables, stage, source, recipe)
        final = _finish(block, learnables, recipe)
        error = _error(final, stage, goals, source, recipe)
    return final, BlockReport(start, learned, error, steps)


def token_weights(types: Tensor, special: float) -> Tensor:
    """Weights of mean 1 that give all special tokens together `special` times the weight of all patches; 0: none."""
    patch = types == types.max()
    count = int(patch.sum())
    if special == 0 or count == types.numel():
        return torch.ones(types.shape, device=types.device)
    each = special * count / (types.numel() - count)
    weights = torch.where(patch, 1.0, each)
    return weights / weights.mean()


@torch.no_grad()
def _record(
    block: Block, learnables: dict[str, LearnableLinear], stage: Stage, source: Stream, recipe: Recipe
) -> dict[str, Inputs]:
    """For each linear of the float block: (largest |rotated input| and mean square per channel [in], sampled inputs
    [rows, in]).

    Both are of centered inputs.
    """
    amax: dict[str, Tensor] = {}
    energy: dict[str, Tensor] = {}
    count: dict[str, float] = {}
    samples: dict[str, list[Tensor]] = {name: [] for name in learnables}

    def keep(name: str, x: Tensor, types: Tensor) -> None:
        learnable = learnables[name]
        x = learnable.centered(x)
        rotated = x if learnable.rotation is None else learnable.rotation(x)
        largest = rotated.abs().flatten(0, -2).amax(0)
        amax[name] = largest if name not in amax else torch.maximum(amax[name], largest)
        weight = token_weights(types, recipe.special_weight)
        energy[name] = energy.get(name, 0) + (rotated.square() * weight[..., None]).flatten(0, -2).double().sum(0)
        count[name] = count.get(name, 0) + types.numel()
        rows = x.flatten(0, -2)
        samples[name].append(rows[:: max(1, len(rows) // source.share(SAMPLE_ROWS, len(rows)))].clone())

    source.visit(stage, block, {name: partial(keep, name) for name in learnables}, recipe.frame_shapes)
    return {n: (amax[n], (energy[n] / count[n]).float(), torch.cat(samples[n])) for n in learnables}


def _start(
    learnable: LearnableLinear, linear: nn.Module, inputs: Inputs, recipe: Recipe, branch: tuple[int, int]
) -> None:
    """branch: its rank, and a seed."""
    amax, energy, rows = inputs
    if recipe.smooth:
        assert isinstance(linear, nn.Linear)
        learnable.start_scale(amax, recipe.alpha, linear.weight if recipe.scale_init == "released" else None)
    if branch[0]:
        learnable.start_branch(rows, *branch)
    if recipe.search_clips and not isinstance(learnable.format.weight.grid, IntegerGrid):
        learnable.search_weight_scales(energy / learnable.log_scale.exp().square())
        learnable.search_act_clip(rows)
    elif recipe.search_clips:
        learnable.search_weight_clips()
        learnable.search_act_clip(rows)
    else:
        # plain recipes use the observed extremes themselves, learned ones start where a sigmoid still has a slope
        learnable.start_at_extremes(rows, 0.982 if recipe.epochs else 1 - 1e-7)


def _learn(
    quantized: Block, stage: Stage, goals: Stream, source: Stream, recipe: Recipe, generator: torch.Generator
) -> None:
    learnables = [m for m in quantized.modules() if isinstance(m, LearnableLinear)]
    groups = [
        {"params": [m.log_scale for m in learnables], "lr": recipe.scale_rate if recipe.smooth else 0.0},
        {"params": [p for m in learnables for p in (m.clip_low, m.clip_high)], "lr": recipe.clip_rate},
        {"params": [p for m in learnables for p in (m.act_clip, m.log_amax)], "lr": recipe.clip_rate},
    ]
    weights = [p for m in learnables for p in (m.weight, m.bias, m.kind_bias) if p is not None]
    if recipe.weight_rate > 0:
        groups.append({"params": weights, "lr": recipe.weight_rate})
    device = device_of(quantized)
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=device.type != "meta")
    steps_per_epoch = len(list(goals.groups(recipe.batch)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * steps_per_epoch)
    energies = [goal.to(device).square().mean() for goal in goals.tokens]
    for _ in range(recipe.epochs):
        order = torch.randperm(len(energies), generator=generator, device="cpu").tolist()
        for group in goals.groups(recipe.batch, order):
            size = torch.stack([energies[i] for i in group]).mean().clamp_min(1e-12)
            optimizer.zero_grad(set_to_none=True)
            with _weights_once(learnables):
                for piece in goals.pieces(group):
                    for loss in _losses(quantized, stage, piece, goals, source, recipe):
                        (len(piece) / len(group) * (loss / size)).backward()
            optimizer.step()
            schedule.step()
    quantized.requires_grad_(False)


@contextmanager
def _weights_once(learnables: list[LearnableLinear]) -> Iterator[None]:
    """Weights are quantized once for all backward passes inside, whose gradients go through that at the end."""
    weights = [m.quantized_weight() for m in learnables]
    for m, weight in zip(learnables, weights, strict=True):
        m.held = weight.detach().requires_grad_()
    yield
    torch.autograd.backward(weights, [m.held.grad for m in learnables if m.held is not None])
    for m in learnables:
        m.held = None


def _losses(
    quantized: Block, stage: Stage, piece: list[int], goals: Stream, source: Stream, recipe: Recipe
) -> Iterator[Tensor]:
    """What adds up to the mean weighted squared error of these sequences; each to be done with before the next."""
    device = device_of(quantized)
    batch, goal = (stream.batch(stage, piece, recipe.frame_shapes, device) for stream in (source, goals))
    weights = token_weights(batch.types, recipe.special_weight)
    for part, rows in batch.frames_apart():
        error = (part.run(quantized) - goal.tokens[rows]).square().mean(-1)
        yield (error * weights[rows]).mean() * (len(part.tokens) / len(batch.tokens))


@torch.no_grad()
def _error(quantized: Block, stage: Stage, goals: Stream, source: Stream, recipe: Recipe) -> float:
    """Squared error of the block's output over its squared size."""
    noise, signal, device = 0.0, 0.0, device_of(quantized)
    for piece in goals.few():
        batch, goal = (stream.batch(stage, piece, recipe.frame_shapes, device) for stream in (source, goals))
        noise += float((batch.run(quantized) - goal.tokens).double().square().sum())
        signal += float(goal.tokens.double().square().sum())
    return noise / max(signal, 1e-30)


@torch.no_grad()
def _round(
    quantized: Block, learnables: dict[str, LearnableLinear], stage: Stage, source: Stream, recipe: Recipe
) -> None:
    """GPTQ codes of each linear in turn, on the inputs it sees with the ones before it already rounded."""
    for name, learnable in learnables.items():
        moments = InputMoments(learnable.weight.shape[1], learnable.weight.device)

        def add(x: Tensor, types: Tensor, learnable: LearnableLinear = learnable, to: InputMoments = moments) -> None:
            weight = token_weights(types, recipe.special_weight).sqrt()[..., None]
            to.update(learnable.quantized_product(learnable.centered(x)) * weight)

        source.visit(stage, quantized, {name: add}, recipe.frame_shapes)
        if recipe.fit_grids and isinstance(learnable.format.weight.grid, IntegerGrid):
            learnable.fit_codes(moments)
            continue
        format, weight = learnable.format.weight, learnable.clipped_weight()
        scale = format.granularity.expand(learnable.weight_scale(weight), weight.shape[1])
        learnable.codes = gptq_codes(weight, scale, format.grid, moments)


@torch.no_grad()
def _finish(block: Block, learnables: dict[str, LearnableLinear], recipe: Recipe) -> Block:
    """The block with `QuantLinear`s: scales and constants of qkv, fc1 and proj folded into norms and value rows, at no
    cost."""
    final = copy.deepcopy(block)
    folded = {name: m for name, m in learnables.items() if name in foldable(recipe)}
    scale = {name: m.log_scale.detach().exp() for name, m in folded.items()} if recipe.smooth else {}
    fold_smoothing_(final, scale.get("attn.qkv"), scale.get("attn.proj"), scale.get("mlp.fc1"))
    constants = {name: m.constant / m.log_scale.exp() for name, m in folded.items() if m.constant is not None}
    for name, norm in (("attn.qkv", final.norm1), ("mlp.fc1", final.norm2)):
        if name in constants:
            norm.bias.sub_(constants[name])
    for name, learnable in learnables.items():
        rows = None
        if name == "attn.qkv" and "attn.proj" in scale:
            # proj's scale divides the value rows, whose grids shrink with them
            width = len(scale["attn.proj"])
            rows = torch.cat([scale["attn.proj"].new_ones(2 * width), 1 / scale["attn.proj"]])
        linear = learnable.finish(name in folded, rows)
        if recipe.adapt and learnable.latent is not None:
            linear.latent = learnable.latent.float()
        final.set_submodule(name, linear)
    if "attn.proj" in constants:
        # attention averages the values with weights of sum 1, so what each of them loses the average loses
        qkv = final.attn.qkv
        for bias in (qkv.bias, getattr(qkv, "kind_bias", None)):
            if bias is not None:
                bias[..., -len(constants["attn.proj"]) :].sub_(constants["attn.proj"])
    return final
