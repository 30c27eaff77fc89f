"""Confinement of ONNX external data: a model may only name plain files in its own folder."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import uses_external_data

from qvggt.errors import QvggtError


def check_external_data(path: Path) -> tuple[onnx.ModelProto, list[Path]]:
    """Load a model's structure and validate where its external tensors live; returns (model, data files).

    QvggtError for a file that is no ONNX model, and for a location that is absolute, leaves the folder, is a link,
    is missing or is shorter than the tensor it should hold.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise QvggtError(f"{path}: no such file; expected an ONNX model") from error
    except Exception as error:
        raise QvggtError(f"{path}: not a readable ONNX model ({type(error).__name__}); export it again") from error
    if not model.graph.node or not model.opset_import:
        raise QvggtError(f"{path}: holds no ONNX graph; expected a model written by qvggt-export")
    files: dict[str, Path] = {}
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        if location not in files:
            files[location] = _confined(path, tensor.name, location)
        try:
            end = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
        except ValueError as error:
            raise QvggtError(f"{path}: {tensor.name} has a malformed external offset or length") from error
        size = files[location].stat().st_size
        if not 0 <= end <= size:
            raise QvggtError(f"{path}: {tensor.name} ends at byte {end} of {location}, which has {size}; copy it anew")
    return model, list(files.values())


def _confined(path: Path, tensor: str, location: str) -> Path:
    data = path.parent / location
    if not location or Path(location).is_absolute() or len(Path(location).parts) != 1 or location in (".", ".."):
        raise QvggtError(f"{path}: {tensor} points to {location!r}: expected a plain file name in the model's folder")
    if data.is_symlink():
        raise QvggtError(f"{path}: {location} is a symbolic link; put the data file itself beside the model")
    if not data.is_file():
        raise QvggtError(f"{path}: its data file {location} is missing; keep both files in one folder")
    if data.stat().st_nlink > 1:
        raise QvggtError(f"{path}: {location} has several hard links; copy it so that only the model's folder holds it")
    return data
