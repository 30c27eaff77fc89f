"""The calibrated checkpoint: a directory that rebuilds the fake-quant reference bit for bit (DESIGN section 4).

`model.safetensors` holds the float tensors of the network, and for every quantized layer its codes, weight scales,
clips or range, and bias. `quant.json` holds what they mean: format version, scheme, model config, source hash,
calibration list, tool versions, per-layer errors, and the hash of the tensor file. The codes are stored rather than
float weights to be rounded again: that is 4x to 8x smaller, and right for every way of rounding.

Since format version 2 codes are packed where their grid has less than 8 bits or is a floating-point one (`Grid.pack`, a
vector of bytes), and an fp32 tensor is stored in the half type that holds every one of its values, where there is one.
Version 1 is read too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.files import atomic_directory, file_sha256, line
from qvggt.formats.grid import Grid
from qvggt.mapping import Sha256, from_mapping
from qvggt.models.family import ModelConfig, find_family
from qvggt.models.fold_config import FoldConfig
from qvggt.models.folded import applied_fold, fold_structure_
from qvggt.models.network import Network
from qvggt.quant.conv import QuantConv2d
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import prepare_, quantized_convs, quantized_linears, settled, transform_specs
from qvggt.quant.scheme import DESCRIPTION as DESCRIPTION
from qvggt.quant.scheme import Scheme
from qvggt.quant.transform import TransformSpec
from qvggt.tensor_file import open_tensors, write_tensors

FORMAT_VERSION = 2
READABLE = (1, FORMAT_VERSION)
WEIGHTS = "model.safetensors"
HALF_TYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Provenance:
    """Where a calibrated checkpoint comes from, and how good each layer is.

    source: {"name", "sha256"} of the float checkpoint. calibration: {"frames", "list", "sha256"} of the images used,
    empty when none were. versions: tool versions. layers: path -> error figures (e.g. weight SQNR in dB); a figure
    that is not finite is stored as null, as JSON has no other word for it.
    """

    source: Mapping[str, str] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def __repr__(self) -> str:
        words = [f"source {self.source['name']}"] if "name" in self.source else []
        words += [f"calibration {', '.join(self.calibration)}"] if self.calibration else []
        words += [f"{len(self.layers)} layers"] if self.layers else []
        return f"Provenance({'; '.join(words)})"


@dataclass(frozen=True)
class _Description:
    """What quant.json says."""

    format_version: int
    scheme: Mapping[str, Any]
    config: Mapping[str, Any]
    fold: FoldConfig | None
    transforms: Mapping[str, TransformSpec]
    weights_sha256: Sha256
    source: Mapping[str, str]
    calibration: Mapping[str, Any]
    versions: Mapping[str, str]
    layers: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Calibrated:
    """A loaded checkpoint: the fake-quant model (eval mode), its scheme, provenance and the hash of its weights."""

    model: Network
    scheme: Scheme
    provenance: Provenance
    sha256: str


def is_calibrated(path: str | Path) -> bool:
    """Whether a path is a calibrated checkpoint directory."""
    return (Path(path) / DESCRIPTION).is_file()


def save_calibrated(
    path: str | Path,
    model: Network,
    scheme: Scheme,
    provenance: Provenance,
    replace: bool = False,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write the directory atomically; an existing one is replaced only if asked, and only if it is a checkpoint.

    notes: file name -> text, further records to keep beside the checkpoint; loading does not read them.
    """
    fold = applied_fold(model)
    with atomic_directory(path, replace=replace, marker=DESCRIPTION) as folder:
        write_tensors(folder / WEIGHTS, _stored(model), {"format": "pt"})
        description = {
            "format_version": FORMAT_VERSION,
            "scheme": settled(model, scheme).to_dict(),
            "config": json.loads(model.config.to_json()),
            "fold": None if fold is None else asdict(fold),
            "transforms": {name: asdict(spec) for name, spec in transform_specs(model).items()},
            "weights_sha256": file_sha256(folder / WEIGHTS),
            **asdict(provenance),
            "layers": {name: _finite(figures) for name, figures in provenance.layers.items()},
        }
        for name, text in (notes or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def load_calibrated(path: str | Path) -> Calibrated:
    """Rebuild the fake-quant model. QvggtError names the file and key of whatever is missing or does not fit."""
    folder = Path(path)
    description, scheme, config = _read_description(folder / DESCRIPTION)
    weights = folder / WEIGHTS
    digest = file_sha256(weights)
    if digest != description.weights_sha256:
        raise QvggtError(
            f"{weights}: sha256 {digest[:12]} does not match {DESCRIPTION} "
            f"({description.weights_sha256[:12]}); the directory was changed: calibrate again"
        )
    file = open_tensors(weights)
    try:
        with torch.device("meta"):
            model = find_family(scheme.family).build(config)
            if description.fold is not None:
                fold_structure_(model, description.fold)
            prepare_(model, scheme, description.transforms)
    except (TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:  # that do not go together
        raise QvggtError(
            f"{folder / DESCRIPTION}: describes no model that can be built ({line(error)}); calibrate again"
        ) from error
    expected = model.state_dict()
    packed = packed_grids(model) if description.format_version > 1 else {}
    for key in (*expected, *file.entries):
        shape: object = list(expected[key].shape) if key in expected else "absent"
        if key in packed:
            shape = [-(-expected[key].numel() * packed[key].storage_bits // 8)]
        got = list(file.entries[key].shape) if key in file.entries else "absent"
        if shape != got:
            raise QvggtError(f"{weights}: {key} expected {shape}, got {got}; calibrate again")
    read = file.opener()
    try:
        state = {key: read(key) for key in expected}
    except Exception as error:
        raise QvggtError(f"{weights}: cannot be read ({line(error)}); calibrate again") from error
    for key, tensor in expected.items():
        wanted = torch.uint8 if key in packed else tensor.dtype
        if description.format_version > 1 and wanted == torch.float32 and state[key].dtype in HALF_TYPES:
            state[key] = state[key].float()
        if state[key].dtype != wanted:
            raise QvggtError(f"{weights}: {key} expected {wanted}, got {state[key].dtype}; calibrate again")
        if key in packed:
            state[key] = packed[key].unpack(state[key], tuple(tensor.shape))
    model.load_state_dict(state, assign=True)
    about = Provenance(description.source, description.calibration, description.versions, description.layers)
    return Calibrated(model.requires_grad_(False).eval(), scheme, about, digest)


def packed_grids(model: nn.Module) -> dict[str, Grid]:
    """State-dict key -> grid of the codes that are stored packed."""
    layers: list[tuple[str, QuantLinear | QuantConv2d]] = [*quantized_linears(model), *quantized_convs(model)]
    grids = {f"{path}.codes": layer.format.weight.grid for path, layer in layers}
    return {key: grid for key, grid in grids.items() if grid.packed}


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as it is written."""
    packed = packed_grids(model)
    return {
        key: packed[key].pack(tensor) if key in packed else _narrowest(tensor)
        for key, tensor in model.state_dict().items()
    }


def _narrowest(tensor: Tensor) -> Tensor:
    """The tensor in the first half type that gives back every bit of it; itself where none does."""
    if tensor.dtype == torch.float32:
        for kind in HALF_TYPES:
            half = tensor.to(kind)
            if torch.equal(half.float().view(torch.int32), tensor.view(torch.int32)):
                return half
    return tensor


def _finite(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None or not math.isfinite(value) else value for name, value in figures.items()}


def _read_description(path: Path) -> tuple[_Description, Scheme, ModelConfig]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise QvggtError(f"{path}: no readable JSON ({kind}); expected a calibrated checkpoint") from error
    version = values.get("format_version") if isinstance(values, dict) else FORMAT_VERSION
    if version not in READABLE:
        raise QvggtError(
            f"{path}: format_version {version}, expected {FORMAT_VERSION}; update qvggt or calibrate again"
        )
    try:
        description = from_mapping(_Description, values, "description", advice="calibrate again")
        scheme = Scheme.from_dict(description.scheme)
        return description, scheme, find_family(scheme.family).config(description.config)
    except QvggtError as error:
        raise QvggtError(f"{path}: {error}") from error
