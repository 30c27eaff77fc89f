"""Rounding to nearest: the plain quantization, which an export of float weights does on the way."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qvggt.errors import QvggtError
from qvggt.versions import versions

if TYPE_CHECKING:
    from torch import Tensor

    from qvggt.data.image_set import ImageSet
    from qvggt.quant.handle import Model
    from qvggt.quant.scheme import Scheme

PACKAGES = ("qvggt", "torch", "numpy", "safetensors")  # whose versions a checkpoint names


def round_to_nearest(
    model: Model,
    scheme: Scheme,
    batches: Sequence[Tensor] | ImageSet[Any] | None = None,
    *,
    seed: int = 0,
    in_place: bool = False,
) -> Model:
    """A float model, quantized; its network is copied unless it may be changed (`in_place`).

    batches: images [S, 3, H, W] in [0, 1], on which static activations take their ranges. seed: that drew them, for
    the provenance. QvggtError for batches that are missing or no images, and for a model that is quantized already;
    the model is then untouched.
    """
    import torch

    from qvggt.calib.recipe import RECIPES
    from qvggt.calib.rtn import quantize_rtn_
    from qvggt.data.image_set import ImageSet
    from qvggt.device import device_of, label
    from qvggt.quant.checkpoint import Provenance
    from qvggt.quant.handle import Model

    if model.scheme is not None:
        raise QvggtError(f"{model.name}: is quantized already ({model.scheme.label}); give the float model")
    if batches is None and scheme.needs_ranges:
        raise QvggtError(f"{scheme.label}: needs batches, image sequences to observe activation ranges on")
    if batches is not None and not isinstance(batches, ImageSet):
        _check_images(batches)
    network = model.network if in_place else copy.deepcopy(model.network)
    seen = batches if scheme.needs_ranges else None
    layers = quantize_rtn_(network, scheme, seen, None if seen is None else len(seen))
    ran = {"threads": torch.get_num_threads(), "device": label(device_of(network))}
    calibration = {"recipe": RECIPES["rtn"].to_dict(), "seed": seed, **ran}
    if isinstance(batches, ImageSet):
        calibration["frames"] = batches.listing()["frames"]
    source = {"name": model.name, "sha256": model.sha256}
    return Model(network, model.name, model.sha256, scheme, Provenance(source, calibration, versions(PACKAGES), layers))


def _check_images(batches: Sequence[Tensor]) -> None:
    from torch import Tensor

    if not batches or not all(isinstance(item, Tensor) and item.ndim == 4 and item.shape[1] == 3 for item in batches):
        raise QvggtError("batches: expected image tensors [S, 3, H, W] in [0, 1]")
    for index, item in enumerate(batches):
        if not bool(item.isfinite().all()):
            raise QvggtError(f"batches: sequence {index} holds NaN or infinity, expected images in [0, 1]")
