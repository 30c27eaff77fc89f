"""Files of ours as users get them: calibrated with the default recipe, on generated scenes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.models.network import Network
from qvggt.quant.model import settled
from qvggt.quant.scheme import Scheme


def folds(name: str) -> bool:
    """Whether a calibrated network of a format, such as "w8a8-static", has its tokens in a basis of its own."""
    return isinstance(find_format(name.partition("-")[0]), LinearFormat)  # the default recipe folds in all of them


def calibrated_(model: Network, scheme: Scheme, batches: Sequence[Tensor], *, nearest: bool = False) -> Scheme:
    """Quantize in place as `qvggt calibrate` does, on images [S, 3, H, W]; the scheme that came of it.

    nearest: without the steps that take hours on VGGT-1B and change codes only: the same nodes of the same speed, with
    weights rounded to nearest; not for accuracy.
    """
    recipe = find_recipe("qvggt")
    recipe = recipe.replace(rounding="rtn", search_clips=False) if nearest else recipe
    calibrate_(model, scheme, recipe, batches, progress=False)
    return settled(model, scheme)
