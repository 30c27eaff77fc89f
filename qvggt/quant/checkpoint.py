"""The calibrated checkpoint: a directory that rebuilds the fake-quant reference bit for bit (DESIGN section 4).

`model.safetensors` holds the float tensors of the network, and for every quantized linear its integer codes, weight
scales, clips or range, and bias. `quant.json` holds what they mean: format version, scheme, model config, source
hash, calibration list, tool versions, per-layer errors, and the hash of the tensor file. The codes are stored
rather than float weights to be rounded again: that is 4x smaller, and right for every way of rounding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from qvggt.errors import QvggtError
from qvggt.files import atomic_directory, file_sha256
from qvggt.model import VGGT, VGGTConfig
from qvggt.model.loading import restore_constants
from qvggt.quant.model import prepare_, transform_specs
from qvggt.quant.scheme import Scheme
from qvggt.quant.transform import TransformSpec
from qvggt.rotation.config import FoldConfig
from qvggt.rotation.structure import applied_fold, fold_structure_
from qvggt.tensor_file import open_tensors, write_tensors

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "quant.json"


@dataclass(frozen=True)
class Provenance:
    """Where a calibrated checkpoint comes from, and how good each layer is.

    source: {"name", "sha256"} of the float checkpoint. calibration: {"frames", "list", "sha256"} of the images used,
    empty when none were. versions: tool versions. layers: path -> error figures (e.g. weight SQNR in dB).
    """

    source: Mapping[str, str] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibrated:
    """A loaded checkpoint: the fake-quant model (eval mode), its scheme, provenance and the hash of its weights."""

    model: VGGT
    scheme: Scheme
    provenance: Provenance
    sha256: str


def is_calibrated(path: str | Path) -> bool:
    """Whether a path is a calibrated checkpoint directory."""
    return (Path(path) / DESCRIPTION).is_file()


def save_calibrated(
    path: str | Path, model: VGGT, scheme: Scheme, provenance: Provenance, replace: bool = False
) -> None:
    """Write the directory atomically; an existing one is replaced only if asked, and only if it is a checkpoint."""
    fold = applied_fold(model)
    with atomic_directory(path, replace=replace, marker=DESCRIPTION) as folder:
        write_tensors(folder / WEIGHTS, model.state_dict(), {"format": "pt"})
        description = {
            "format_version": FORMAT_VERSION,
            "scheme": scheme.to_dict(),
            "config": json.loads(model.config.to_json()),
            "fold": None if fold is None else fold.to_dict(),
            "transforms": {path: spec.to_dict() for path, spec in transform_specs(model).items()},
            "weights_sha256": file_sha256(folder / WEIGHTS),
            "source": dict(provenance.source),
            "calibration": dict(provenance.calibration),
            "versions": dict(provenance.versions),
            "layers": {k: dict(v) for k, v in provenance.layers.items()},
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def load_calibrated(path: str | Path) -> Calibrated:
    """Rebuild the fake-quant model. QvggtError names the file and key of whatever is missing or does not fit."""
    folder = Path(path)
    description = _read_description(folder / DESCRIPTION)
    scheme = Scheme.from_dict(description["scheme"])
    config = VGGTConfig.from_dict(description["config"])
    weights = folder / WEIGHTS
    digest = file_sha256(weights)
    if digest != description["weights_sha256"]:
        raise QvggtError(
            f"{weights}: sha256 {digest[:12]} does not match {DESCRIPTION} "
            f"({str(description['weights_sha256'])[:12]}); the directory was changed: calibrate again"
        )
    file = open_tensors(weights)
    with torch.device("meta"):
        model = VGGT(config)
        if description["fold"] is not None:
            fold_structure_(model, FoldConfig.from_dict(description["fold"]))
        prepare_(model, scheme, {path: TransformSpec(**spec) for path, spec in description["transforms"].items()})
    expected = model.state_dict()
    for key in (*expected, *file.entries):
        shape = tuple(expected[key].shape) if key in expected else None
        got = file.entries[key].shape if key in file.entries else None
        if shape != got:
            raise QvggtError(f"{weights}: {key} expected {shape or 'absent'}, got {got or 'absent'}; calibrate again")
    read = file.opener()
    state = {key: read(key) for key in expected}
    for key, tensor in expected.items():
        if state[key].dtype != tensor.dtype:
            raise QvggtError(f"{weights}: {key} expected {tensor.dtype}, got {state[key].dtype}; calibrate again")
    model.load_state_dict(state, assign=True)
    restore_constants(model)
    provenance = Provenance(*(description[k] for k in ("source", "calibration", "versions", "layers")))
    return Calibrated(model.requires_grad_(False).eval(), scheme, provenance, digest)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QvggtError(f"{path}: no readable JSON ({type(error).__name__}); expected a calibrated checkpoint") from (
            error
        )
    if not isinstance(description, dict):
        raise QvggtError(f"{path}: expected a JSON object, got {type(description).__name__}")
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise QvggtError(
            f"{path}: format_version {version}, expected {FORMAT_VERSION}; update qvggt or calibrate again"
        )
    kinds: dict[str, Any] = {"scheme": dict, "config": dict, "weights_sha256": str, "source": dict}
    kinds |= {"calibration": dict, "versions": dict, "layers": dict, "transforms": dict, "fold": dict | None}
    for key, kind in kinds.items():
        if key not in description or not isinstance(description[key], kind):
            raise QvggtError(f"{path}: key {key!r} is missing or of the wrong kind; calibrate again")
    return description
