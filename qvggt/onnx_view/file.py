"""An ONNX file and the data files it names, checked before any runtime follows those names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from qvggt.onnx_view.external_data import check_external, described, external_tensors, parse_model


@dataclass(frozen=True)
class OnnxFile:
    """A parsed model, its large tensors not loaded, and the external data files it uses, in name order."""

    path: Path
    model: onnx.ModelProto
    data: tuple[Path, ...]


def open_onnx(path: str | Path) -> OnnxFile:
    """Parse a model and check its external data; QvggtError for a missing, corrupt, truncated or escaping file."""
    path = Path(path)
    model = parse_model(path, lambda name: onnx.load(name, format="protobuf", load_external_data=False))
    return OnnxFile(path, model, external_files(model, path))


def external_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """The data files of `model`, which was read from `path`, as real paths; QvggtError for one that is not allowed."""
    return check_external(path, [described(tensor) for tensor in external_tensors(model)])
