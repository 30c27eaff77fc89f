"""Calibration of a whole model: fold, then one block after the other (DESIGN 3.7)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from torch import Tensor

from qvggt.calib.adaptation import adapt_, sharing
from qvggt.calib.block_journal import BlockJournal
from qvggt.calib.branch import leave_whole_
from qvggt.calib.half import half_attention, half_products
from qvggt.calib.ranges import static_ranges
from qvggt.calib.recipe import Recipe
from qvggt.calib.reconstruct import BlockReport, calibrate_block
from qvggt.calib.stream import Stream
from qvggt.device import device_of
from qvggt.models.block import Block
from qvggt.models.family import LINEARS, family_of
from qvggt.models.fold_config import FoldConfig
from qvggt.models.network import Network
from qvggt.progress import bar
from qvggt.quant.attention import observed
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import (
    check_overrides,
    quantize_,
    quantize_attentions_,
    scheme_attentions,
    settled,
    tell_centers_,
)
from qvggt.quant.scheme import Scheme
from qvggt.rotation.fold import fold_


def fold_config(recipe: Recipe, seed: int) -> FoldConfig | None:
    """The folds a recipe asks for; None when it wants none."""
    residual = recipe.rotation == "folded"
    if not residual and not recipe.value_rotation:
        return None
    return FoldConfig(seed=seed, residual=residual, layer_scale=True, value=recipe.value_rotation)


def calibrate_(
    model: Network,
    scheme: Scheme,
    recipe: Recipe,
    batches: Iterable[Tensor],
    seed: int = 0,
    *,
    journal: BlockJournal | None = None,
    memory: int = 2 << 30,
    progress: bool = True,
) -> dict[str, BlockReport]:
    """Quantize the blocks of a float model in place, on the device it is on; returns path -> report.

    `batches`: image sequences [S, 3, H, W] in [0, 1]. Deterministic for a seed (on a GPU inside `qvggt.device.exact`).
    Blocks without a quantized linear are only passed through. `journal`: finished blocks go there and are taken from
    there. `memory`: bytes of tokens held in RAM before they spill to disk. What is quantized outside the stages (in a
    camera head, the convolutions of dense heads) is rounded to nearest at the end; static activations read `batches`
    again for their ranges, an adaptation for its steps. Attention gets its format when its block is done, so that later
    blocks see it. QvggtError for an override that matches nothing.
    """
    check_overrides(model, scheme)
    fold_for_(model, recipe, seed)
    teacher = sharing(model) if recipe.adapt else None
    reports = calibrate_stages_(model, scheme, recipe, Stream.start(model, batches, memory), 0, seed, journal, progress)
    if teacher is not None:
        adapt_(model, teacher, batches, recipe, seed, journal=journal, progress=progress)
    leave_whole_(model)
    round_rest_(model, scheme, batches, progress)
    return reports


def fold_for_(model: Network, recipe: Recipe, seed: int) -> None:
    """The folds of a recipe, which change no output."""
    if (folds := fold_config(recipe, seed)) is not None:
        fold_(model, folds)


def quantized_stages(model: Network, scheme: Scheme) -> list[int]:
    """Numbers of the stages whose blocks have a linear with a format."""
    stages = family_of(model).stages(model.config)
    return [i for i, s in enumerate(stages) if any(scheme.format(f"{s.path}.{name}") for name in LINEARS)]


def calibrate_stages_(
    model: Network,
    scheme: Scheme,
    recipe: Recipe,
    tokens: Stream,
    first: int,
    seed: int = 0,
    journal: BlockJournal | None = None,
    progress: bool = False,
) -> dict[str, BlockReport]:
    """Quantize the blocks of a folded model in place, one after the other; `tokens`: its stream before stage `first`,
    before which nothing is quantized. It is used up."""
    target = source = tokens  # one stream until something is quantized
    reports: dict[str, BlockReport] = {}
    attentions = [path for path, _, _ in scheme_attentions(model, scheme)]
    numbers = quantized_stages(model, scheme) or [-1]
    plan = family_of(model).stages(model.config)[first : numbers[-1] + 1]
    for stage in bar(plan, desc=f"calibrate {recipe.name}", unit="block", shown=progress):
        formats = {n: f for n in LINEARS if (f := scheme.format(f"{stage.path}.{n}")) is not None}
        if source is target and recipe.propagation != "float" and (formats or recipe.bf16):
            source = target.copy()
        if stage.enters:
            for stream in {id(s): s for s in (target, source)}.values():
                stream.enter(model, stage)
        block = model.get_submodule(stage.path)
        assert isinstance(block, Block)
        final = block
        goals = target  # what comes out of the float block, once for all that is compared with it
        with half_products(recipe.bf16, device_of(block)):
            if source is target and formats:
                goals = target.through(stage, block, recipe.frame_shapes)
            else:
                target.advance(stage, block, recipe.frame_shapes)
        if formats:
            done = None if journal is None else journal.load(stage.path, block, formats)
            if done is None:
                done = calibrate_block(block, stage, formats, goals, source, recipe, seed)
                if journal is not None:
                    journal.save(stage.path, *done)
            final, reports[stage.path] = done
            model.set_submodule(stage.path, final)
            if (path := f"{stage.path}.attn") in attentions:
                with observed(model, [path]) as seen:
                    source.visit(stage, final, {})
                quantize_attentions_(model, scheme, seen)
        if source is not target:
            with half_attention(recipe.bf16):
                source.advance(stage, final, recipe.frame_shapes)
        elif goals is not target:
            target.tokens.clear()
            source = target = goals
    tell_centers_(model)
    return reports


def round_rest_(model: Network, scheme: Scheme, batches: Iterable[Tensor], progress: bool = False) -> None:
    """What is quantized outside the stages, rounded to nearest."""
    scheme = settled(model, scheme)  # what is floating-point attention by now stays so
    quantize_(model, scheme, *static_ranges(model, scheme, batches, progress=progress))


def report_table(reports: dict[str, BlockReport], model: Network) -> dict[str, dict[str, float | None]]:
    """Reports as plain numbers, for a checkpoint's layer table: errors of every block, and of each linear in it the
    steps it takes at run time (1 or 0), their cost in multiply-adds of the product, and the dB they were chosen by."""
    table: dict[str, dict[str, float | None]] = {}
    for path, report in reports.items():
        table[path] = {"start": report.start, "learned": report.learned, "final": report.final}
        for name, steps in report.steps.items():
            linear = model.get_submodule(f"{path}.{name}")
            assert isinstance(linear, QuantLinear)
            row = {k: None if v is None else float(v) for k, v in asdict(steps).items()}
            cost = steps.additions(name, linear.format, linear.in_features, linear.out_features)
            table[f"{path}.{name}"] = row | {"cost": cost}
    return table
