"""What a calibration does: one frozen object per method, ours and the baselines, through the same code."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from qvggt.errors import QvggtError
from qvggt.formats.linear_format import LinearFormat

Propagation = Literal["float", "quantized"]
Rounding = Literal["rtn", "gptq"]
Rotation = Literal["none", "folded", "linear"]
ScaleInit = Literal["rotated", "released"]
Online = Literal["none", "fc2", "needed"]
Center = Literal["none", "types", "needed"]


@dataclass(frozen=True)
class Recipe:
    """Steps of a calibration, in order; every field can be ablated. "needed" is decided per linear (calib.steps).

    rotation: "folded" = residual rotation folded into the weights (DESIGN 3.1, no run-time cost); "linear" = a private
    online Hadamard before every linear (the published method). value_rotation: per-head, folded (3.2). online: a
    Kronecker Hadamard at run time before fc2 (3.4); where it is "needed", so is fc2's smoothing. center: take the mean
    input of patches off every token, which folds, and those of special types of tokens off theirs, for linears with
    quantized activations; the others round their weights on inputs without that mean, whose product stays exact in the
    bias. constant_ranges: one range for all tokens where a norm bounds them, or the grid has room for others, and that
    is enough (calib.steps), in dynamic formats too.
    smooth: per-channel scales (3.3), `alpha` their exponent; scale_init "rotated" takes rotated weights, "released" the
    unrotated ones as the released code does. epochs: passes of block-wise learning of scales and clips (AdamW, rates
    `scale_rate` and `clip_rate`; with `weight_rate` the weights too; `weight_decay` on everything).
    special_weight: what special tokens count against patches in it and in the rounding, 0 = as many as they are.
    search_clips: start the clips at their least-squares optimum instead of 0.982; of floating-point weights the scales,
    which need not end at the largest.
    propagation: whether a block sees float or quantized inputs. rounding: of the weights. fit_grids: in "gptq" each row
    of integer weights takes the best of ten grids. branch: most directions of the input, and no more than an eighth of
    all, that pass the grids by in a floating-point product beside that of the codes (calib.branch), in linears that
    reach too little without.
    frame_shapes: feed global blocks frame by frame, a fault of the released code kept for its baseline.
    adapt: steps in which the rounded weights of all blocks adapt to each other afterwards (calib.adaptation), at up to
    `adapt_rate` codes a step.
    bf16: attention, and the float blocks that are learned from, multiply bf16; nothing that rounds does (calib.half).
    """

    name: str
    rotation: Rotation = "none"
    value_rotation: bool = False
    online: Online = "none"
    center: Center = "none"
    constant_ranges: bool = False
    smooth: bool = False
    alpha: float = 0.5
    scale_init: ScaleInit = "rotated"
    search_clips: bool = False
    epochs: int = 0
    scale_rate: float = 5e-3
    clip_rate: float = 1e-2
    weight_rate: float = 0.0
    weight_decay: float = 0.0
    batch: int = 8  # sequences per step
    special_weight: float = 0.0
    propagation: Propagation = "quantized"
    rounding: Rounding = "rtn"
    fit_grids: bool = False
    branch: int = 0
    frame_shapes: bool = False
    adapt: int = 0
    adapt_rate: float = 1e-3
    bf16: bool = False

    def replace(self, **changes: Any) -> Recipe:
        return dataclasses.replace(self, **changes)

    def centers(self, format: LinearFormat) -> bool:
        """Whether linears of this format may have centers."""
        return self.center != "none" and format.activation is not None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("rtn"),
        Recipe("smoothquant", smooth=True),
        Recipe("quarot", rotation="folded", value_rotation=True, online="fc2"),
        Recipe(
            "quantvggt",
            rotation="linear",
            smooth=True,
            scale_init="released",
            epochs=15,
            scale_rate=1e-3,
            weight_decay=0.01,
            batch=1,
            propagation="float",
            frame_shapes=True,
        ),
        Recipe(
            "qvggt",
            rotation="folded",
            online="needed",
            center="needed",
            constant_ranges=True,
            search_clips=True,
            special_weight=4.0,
            rounding="gptq",
            fit_grids=True,
            branch=32,
            weight_rate=1e-4,
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """A named recipe; QvggtError lists the names."""
    if name not in RECIPES:
        raise QvggtError(f"unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
