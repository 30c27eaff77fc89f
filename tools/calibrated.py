"""Files of ours as users get them: calibrated with the default recipe, on generated scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from torch import Tensor

from qvggt.calib import reconstruct
from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import Recipe, find_recipe
from qvggt.calib.steps import Steps, branch_rank
from qvggt.calib.stream import Stream
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.models.block import Block
from qvggt.models.family import Stage
from qvggt.models.network import Network
from qvggt.quant.model import settled
from qvggt.quant.scheme import Scheme


def folds(name: str) -> bool:
    """Whether a calibrated network of a format, such as "w8a8-static", has its tokens in a basis of its own."""
    return isinstance(find_format(name.partition("-")[0]), LinearFormat)  # the default recipe folds in all of them


def calibrated_(model: Network, scheme: Scheme, batches: Sequence[Tensor], *, nearest: bool = False) -> Scheme:
    """Quantize in place as `qvggt calibrate` does, on images [S, 3, H, W]; the scheme that came of it. nearest: see
    `recipe`."""
    calibrate_(model, scheme, recipe(nearest), batches, progress=False)
    return settled(model, scheme)


def recipe(nearest: bool) -> Recipe:
    """The default one; nearest: without the steps that take hours on VGGT-1B and change codes only: the same nodes of
    the same speed, with weights rounded to nearest; not for accuracy."""
    ours = find_recipe("qvggt")
    return ours.replace(rounding="rtn", search_clips=False) if nearest else ours


def usual_steps(network: Network, scheme: Scheme, batches: Sequence[Tensor]) -> dict[str, Steps]:
    """What most blocks of a trained network spend on each linear at run time, by the linear's name in the block; the
    network is calibrated for it, in place."""
    reports = calibrate_(network, scheme, recipe(nearest=True), batches, progress=False)
    found: dict[str, Counter[Steps]] = {}
    for report in reports.values():
        for name, steps in report.steps.items():
            found.setdefault(name, Counter())[replace(steps, db=None)] += 1
    return {name: counts.most_common(1)[0][0] for name, counts in found.items()}


@contextmanager
def given_steps(usual: Mapping[str, Steps]) -> Iterator[None]:
    """Inside, linears of these names get these steps whatever their inputs say, branches of the rank that is theirs by
    the recipe: for networks of random weights, whose inputs say nothing of those of trained ones."""

    def choose(
        block: Block, stage: Stage, formats: Mapping[str, LinearFormat], source: Stream, recipe: Recipe, _seed: int
    ) -> tuple[dict[str, Steps], dict[str, Tensor]]:
        chosen = dict[str, Steps]()
        for name in formats:
            rank = branch_rank(block.get_submodule(name), recipe) if usual[name].rank else 0
            chosen[name] = replace(usual[name], rank=rank)
        centered = formats if recipe.center != "none" else ()
        return chosen, source.type_means(stage, block, centered, recipe.frame_shapes)

    with patch.object(reconstruct, "choose_steps", choose):
        yield
