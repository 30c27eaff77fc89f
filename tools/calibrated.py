"""Files of ours as users get them: calibrated with the default recipe, on generated scenes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import Recipe, find_recipe
from qvggt.models.network import Network
from qvggt.quant.model import settled
from qvggt.quant.scheme import Scheme

DEFAULT_RECIPE = "qvggt"


def recipe(nearest: bool = False) -> Recipe:
    """The default one. nearest: without the steps that take hours on VGGT-1B and change codes only: the same nodes of
    the same speed, with weights rounded to nearest; not for accuracy."""
    ours = find_recipe(DEFAULT_RECIPE)
    return ours.replace(rounding="rtn", learn=False, search_clips=False) if nearest else ours


def calibrated_(model: Network, scheme: Scheme, batches: Sequence[Tensor], *, nearest: bool = False) -> Scheme:
    """Quantize in place as `qvggt calibrate` does, on images [S, 3, H, W]; the scheme that came of it."""
    calibrate_(model, scheme, recipe(nearest), batches, progress=False)
    return settled(model, scheme)
