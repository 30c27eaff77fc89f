"""What an ONNX file says of itself before any runtime opens it: input, outputs, scheme, files with hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from qvggt.engines.runner import ModelFile
from qvggt.errors import QvggtError
from qvggt.onnx_view.file import open_onnx
from qvggt.predictions import TRAILING
from qvggt.quant.scheme import Scheme
from qvggt.tensor_file import line

INPUT = "images"


@dataclass(frozen=True)
class NetworkFile:
    """An ONNX file with input `images` [1, S, 3, H, W] float32 and outputs named as in qvggt.predictions.

    frames, size: the only frame count and (H, W) it takes, None where any works. outputs: names among OUTPUTS, in the
    order of the graph. metadata: its `qvggt.*` entries, empty for a file of another exporter. files: the model, then
    its external data.
    """

    path: Path
    frames: int | None
    size: tuple[int, int] | None
    outputs: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    scheme: Scheme | None = None
    files: tuple[ModelFile, ...] = ()

    @property
    def scheme_label(self) -> str:
        return "unknown scheme" if self.scheme is None else self.scheme.label

    @property
    def frame_profile(self) -> tuple[int, int, int]:
        """(min, opt, max) frames for a runtime that compiles for a range of them: the file's own, else 1, 8, 32."""
        if self.frames is not None:
            return self.frames, self.frames, self.frames
        try:
            low, opt, high = (int(part) for part in self.metadata["qvggt.frames"].split(":"))
        except (KeyError, ValueError):
            return 1, 8, 32
        return low, opt, high

    def describe(self) -> dict[str, Any]:
        """The part of `Runner.describe` that comes from the file."""
        return {
            "scheme": self.scheme_label,
            "scheme_json": None if self.scheme is None else self.scheme.to_dict(),
            "metadata": dict(self.metadata) or "none: not written by qvggt-export, so scheme and source are unknown",
        }


def read_network(path: str | Path) -> NetworkFile:
    """Read and check a file; QvggtError for one that is missing, corrupt, unsafe, edited or has another interface."""
    path = Path(path)
    opened = open_onnx(path)
    frames, size = _input(path, opened.model)
    outputs = _outputs(path, opened.model)
    metadata = {entry.key: entry.value for entry in opened.model.metadata_props if "qvggt." in entry.key}
    scheme = _scheme(path, metadata)
    _check_metadata(path, metadata, size)
    data = opened.data
    del opened  # up to 2 GB of weights: the runtime parses the file itself
    files = tuple(ModelFile.of(file) for file in (path, *data))
    return NetworkFile(path, frames, size, outputs, metadata, scheme, files)


def _dims(value: onnx.ValueInfoProto) -> list[int | None]:
    """Dimensions of a graph input or output, None where symbolic."""
    return [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]


def _shown(dims: list[int | None]) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in dims)}]"


def _input(path: Path, model: onnx.ModelProto) -> tuple[int | None, tuple[int, int] | None]:
    """(fixed frame count or None, fixed (H, W) or None) from the graph's input."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialized]
    want = f"expected one input {INPUT} float32 [1, S, 3, H, W]; export it with qvggt-export"
    if [value.name for value in inputs] != [INPUT]:
        raise QvggtError(f"{path}: has inputs {', '.join(value.name for value in inputs) or 'none'}, {want}")
    kind, dims = inputs[0].type.tensor_type.elem_type, _dims(inputs[0])
    if kind != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else str(kind)
        raise QvggtError(f"{path}: input {INPUT} has type {name}, {want}")
    if len(dims) != 5 or dims[0] not in (1, None) or dims[2] not in (3, None):
        raise QvggtError(f"{path}: input {INPUT} has shape {_shown(dims)}, {want}")
    height, width = dims[3:]
    if (height is None) != (width is None):
        raise QvggtError(f"{path}: input {INPUT} {_shown(dims)} fixes only one of H and W; export both or neither")
    return dims[1], None if height is None or width is None else (height, width)


def _outputs(path: Path, model: onnx.ModelProto) -> tuple[str, ...]:
    """Known outputs in the order of the graph; others are not computed."""
    found = []
    for value in model.graph.output:
        trailing = TRAILING.get(value.name)
        if trailing is None:
            continue
        dims = _dims(value)
        if dims and len(dims) != 2 + len(trailing):
            raise QvggtError(
                f"{path}: output {value.name} has shape {_shown(dims)}, expected "
                f"[1, S, {', '.join(map(str, trailing))}]; export it with qvggt-export"
            )
        found.append(value.name)
    if not found:
        names = ", ".join(value.name for value in model.graph.output) or "none"
        raise QvggtError(f"{path}: has outputs {names}, expected some of {', '.join(TRAILING)}; export it again")
    return tuple(found)


def _scheme(path: Path, metadata: dict[str, str]) -> Scheme | None:
    text = metadata.get("qvggt.scheme")
    if text is None:
        return None
    try:
        return Scheme.from_json(text)
    except (QvggtError, TypeError, ValueError) as error:
        raise QvggtError(f"{path}: metadata qvggt.scheme: {line(error)}; export again") from error


def _check_metadata(path: Path, metadata: dict[str, str], size: tuple[int, int] | None) -> None:
    """What the metadata says of the graph must be true of it: else the file was edited after its export."""
    stated = metadata.get("qvggt.size")
    if stated is not None and size is not None and stated != f"{size[0]}x{size[1]}":
        raise QvggtError(
            f"{path}: metadata qvggt.size {stated!r}, but the input is {size[0]}x{size[1]}: edited; export again"
        )
    source = metadata.get("qvggt.source")
    if source is not None:
        try:
            json.loads(source)
        except ValueError as error:
            raise QvggtError(f"{path}: metadata qvggt.source is no JSON ({line(error)}); export again") from error
