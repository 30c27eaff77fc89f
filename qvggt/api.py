"""qvggt from Python: `load`, `quantize`, `export`, `open_runner`.

Composition root for Python programs, as `qvggt/cli/` is for the command line: it alone of this folder uses the other
rooms, inside its functions, and nothing imports it but `qvggt.__getattr__`, by name. `qvggt.export` is the package of
that name, which can be called (`export/calling.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qvggt.data.image_set import ImageSet
from qvggt.data.images import load_images
from qvggt.errors import QvggtError
from qvggt.formats.table import DEFAULT
from qvggt.geometry import decode_pose
from qvggt.hub.loading import load
from qvggt.quant.checkpoint import Provenance
from qvggt.quant.handle import Model
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.versions import versions

if TYPE_CHECKING:
    from qvggt.calib.recipe import Recipe
    from qvggt.engines.runner import Runner

__all__ = ["Model", "Scheme", "decode_pose", "load", "load_images", "open_runner", "quantize"]

PACKAGES = ("qvggt", "torch", "numpy", "safetensors")


def quantize(
    model: Model,
    bits: str = DEFAULT,
    *,
    act: str = "dynamic",
    recipe: str | Recipe = "rtn",
    data: str | Path | Sequence[Tensor] | None = None,
    sequences: int = 64,
    frames: int = 4,
    parts: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Model:
    """A quantized copy of a float model; the model itself is not touched (so the peak is two copies).

    bits: a format such as w8a8 (qvggt/formats/table.py). act: "dynamic" (a scale per token) or "static" (one per
    tensor). recipe: "rtn" rounds to nearest; "qvggt" calibrates block by block (docs/method.md); or a
    `qvggt.calib.recipe.Recipe`. data: calibration images for every recipe but dynamic "rtn": a Co3D-format folder, of
    whose training split the first `sequences` with `frames` seeded frames each are used, or a list of image sequences
    float32 [S, 3, H, W] in [0, 1]. parts: by default those the model family's description names.
    Deterministic for a seed. QvggtError for an unknown word, missing data or a model that is quantized already.
    """
    from qvggt.calib.calibrate import calibrate_, report_table
    from qvggt.calib.recipe import RECIPES, find_recipe
    from qvggt.calib.rtn import quantize_rtn_

    if model.scheme is not None:
        raise QvggtError(f"{model.name}: is quantized already ({model.scheme.label}); give the float model")
    scheme = parse_scheme(bits, act, parts, model.network.config.family)
    chosen = find_recipe(recipe) if isinstance(recipe, str) else recipe
    plain = chosen == RECIPES["rtn"]
    if data is None and (scheme.needs_ranges or not plain):
        raise QvggtError(f"recipe {chosen.name}, {scheme.label}: needs data, a Co3D-format folder or image sequences")
    images = None if data is None else image_sequences(data, model.size, sequences, frames, seed)
    network = copy.deepcopy(model.network)
    calibration: dict[str, Any] = {"recipe": chosen.to_dict(), "seed": seed}
    if plain:
        batches = images if scheme.needs_ranges else None
        layers: Any = quantize_rtn_(network, scheme, batches, None if batches is None else len(batches), progress)
    else:
        assert images is not None
        layers = report_table(calibrate_(network, scheme, chosen, images, seed, progress=progress))
    if isinstance(images, ImageSet):
        calibration["frames"] = images.listing()["frames"]
    source = {"name": model.name, "sha256": model.sha256}
    return Model(network, model.name, model.sha256, scheme, Provenance(source, calibration, versions(PACKAGES), layers))


def open_runner(
    source: str | Path, *, device: str = "cpu", providers: Sequence[str] | None = None, threads: int | None = None
) -> Runner:
    """A `qvggt.Runner` for an .onnx file, an engine, or anything `load` takes; a context manager.

    `runner(images)`: numpy float32 [S, 3, H, W], RGB in [0, 1] -> `Predictions` (pose_enc [S, 9], depth [S, H, W]...).
    See `qvggt.engines.opening.open_runner` for device, providers and threads.
    """
    from qvggt.engines.opening import open_runner as open_any

    return open_any(source, device=device, providers=providers, threads=threads)


def image_sequences(
    data: str | Path | Sequence[Tensor], size: int, sequences: int, frames: int, seed: int
) -> Sequence[Tensor] | ImageSet[Any]:
    """`data` of `quantize` as sequences [S, 3, H, W]."""
    if not isinstance(data, str | Path):
        if not data or not all(isinstance(item, Tensor) and item.ndim == 4 and item.shape[1] == 3 for item in data):
            raise QvggtError("data: expected a folder, or a list of image tensors [S, 3, H, W] in [0, 1]")
        for index, item in enumerate(data):
            if not bool(item.isfinite().all()):
                raise QvggtError(f"data: sequence {index} holds NaN or infinity, expected images in [0, 1]")
        return data
    from qvggt.data.reading import read_images
    from qvggt.data.registry import Question

    question = Question(Path(data), "train", frames=frames, max_sequences=sequences, seed=seed)
    return read_images(question, size, size)
