"""What an ONNX file says of itself before any runtime opens it: inputs, outputs, scheme, files with hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnx import TensorProto

from qvggt.engines.build_config import FRAMES
from qvggt.engines.runner import ModelFile
from qvggt.errors import QvggtError
from qvggt.files import line
from qvggt.onnx_view.file import open_heads, open_onnx
from qvggt.onnx_view.graph import Model, Shape, dims
from qvggt.onnx_view.graph_format import GraphFormat, graph_format
from qvggt.onnx_view.halves import LEVEL, Half, heads_path, trunk_path
from qvggt.onnx_view.metadata import Metadata
from qvggt.onnx_view.quantizer import type_name
from qvggt.predictions import TRAILING
from qvggt.quant.scheme import Scheme

INPUT = "images"


@dataclass(frozen=True)
class NetworkFile:
    """An ONNX file with input `images` [1, S, 3, H, W] float32 and outputs named as in qvggt.predictions.

    frames, size: the only frame count and (H, W) it takes, None where any works. outputs: names among OUTPUTS, in the
    order of the graph. files: the model, then its external data. scheme: of the metadata, None where the graph is of
    another format. levels: name -> shape [1, S, P, C] of the tokens that a trunk returns beside its outputs, and that
    its heads take instead of images; empty for a whole network.
    """

    path: Path
    frames: int | None
    size: tuple[int, int] | None
    outputs: tuple[str, ...]
    metadata: Metadata
    scheme: Scheme | None
    files: tuple[ModelFile, ...]
    format: GraphFormat
    levels: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Shape]:
        """Name -> shape, None where any size works."""
        if self.metadata.half is Half.HEADS:
            return dict(self.levels)
        return {INPUT: (1, self.frames, 3, *(self.size or (None, None)))}

    @property
    def label(self) -> str:
        """The format in a table: of the scheme, or what the graph shows where that lacks or says otherwise."""
        return self.format.label(None if self.scheme is None else self.scheme.label)

    @property
    def frame_profile(self) -> tuple[int, int, int]:
        """(min, opt, max) frames for a runtime that compiles for a range of them: the file's own, else 1, 8, 32."""
        if self.frames is not None:
            return self.frames, self.frames, self.frames
        return self.metadata.frames or FRAMES


def read_network(path: str | Path) -> NetworkFile:
    """Read and check a file; QvggtError for one that is missing, corrupt, unsafe, edited or has another interface.

    The trunk of a network in two files is read as what it is; `read_heads` reads the other.
    """
    path = Path(path)
    opened = open_onnx(path)
    if opened.metadata.half is Half.HEADS:
        raise QvggtError(f"{path}: holds dense heads only, which go with {trunk_path(path).name}; give that file")
    inputs = [(value.name, value.type.tensor_type.elem_type, dims(value)) for value in opened.inputs]
    frames, size = check_input(path, inputs)
    results = [(value.name, dims(value)) for value in opened.proto.graph.output]
    levels = {}
    if opened.metadata.half is Half.TRUNK:
        levels = {name: shape for name, shape in results if LEVEL.fullmatch(name)}
    outputs = () if levels and len(levels) == len(results) else check_outputs(path, results)
    stated = opened.metadata.text("size")
    if stated is not None and size is not None and stated != f"{size[0]}x{size[1]}":
        raise QvggtError(
            f"{path}: metadata qvggt.size {stated!r}, but the input is {size[0]}x{size[1]}: edited; export again"
        )
    return _network(path, opened, frames, size, outputs, levels)


def read_heads(trunk: NetworkFile, path: Path | None = None) -> NetworkFile:
    """The heads of a trunk, by default beside it. QvggtError for a file that is missing, or of another export."""
    opened = open_heads(trunk.metadata, path)
    path = path or heads_path(trunk.path)
    levels = {value.name: dims(value) for value in opened.inputs}
    if levels != trunk.levels:
        shown = (
            ", ".join(f"{name} {_shown(shape)}" for name, shape in each.items()) for each in (levels, trunk.levels)
        )
        raise QvggtError(f"{path}: takes {next(shown)}, {trunk.path.name} gives {next(shown)}; export the two again")
    outputs = check_outputs(path, [(value.name, dims(value)) for value in opened.proto.graph.output])
    return _network(path, opened, None, trunk.size, outputs, levels)


def _network(
    path: Path,
    opened: Model,
    frames: int | None,
    size: tuple[int, int] | None,
    outputs: tuple[str, ...],
    levels: Mapping[str, Shape],
) -> NetworkFile:
    metadata = opened.metadata
    metadata.check()
    scheme, format = file_scheme(metadata), graph_format(opened)
    files = tuple(ModelFile.of(file) for file in (path, *opened.data))
    return NetworkFile(path, frames, size, outputs, metadata, None if format.wrong else scheme, files, format, levels)


def file_scheme(metadata: Metadata) -> Scheme | None:
    """What a file says of its quantization; QvggtError where that is damaged."""
    text = metadata.text("scheme")
    try:
        return None if text is None else Scheme.from_dict(json.loads(text))
    except (QvggtError, TypeError, ValueError) as error:
        raise metadata.damaged("scheme", f": {line(error)}") from error


def _shown(dims: Shape) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in dims)}]"


def check_input(path: Path, inputs: Sequence[tuple[str, int, Shape]]) -> tuple[int | None, tuple[int, int] | None]:
    """(fixed frame count or None, fixed (H, W) or None) from name, TensorProto.DataType and shape of the inputs."""
    want = f"expected one input {INPUT} float32 [1, S, 3, H, W]; export it with qvggt export"
    if [name for name, *_ in inputs] != [INPUT]:
        raise QvggtError(f"{path}: has inputs {', '.join(name for name, *_ in inputs) or 'none'}, {want}")
    _, kind, shape = inputs[0]
    if kind != TensorProto.FLOAT:
        raise QvggtError(f"{path}: input {INPUT} has type {type_name(kind).removeprefix('type ')}, {want}")
    if len(shape) != 5 or shape[0] not in (1, None) or shape[2] not in (3, None):
        raise QvggtError(f"{path}: input {INPUT} has shape {_shown(shape)}, {want}")
    height, width = shape[3:]
    if (height is None) != (width is None):
        raise QvggtError(f"{path}: input {INPUT} {_shown(shape)} fixes only one of H and W; export both or neither")
    return shape[1], None if height is None or width is None else (height, width)


def check_outputs(path: Path, outputs: Sequence[tuple[str, Shape]]) -> tuple[str, ...]:
    """Known outputs in the order of the graph; others are not computed."""
    found = []
    for name, shape in outputs:
        trailing = TRAILING.get(name)
        if trailing is None:
            continue
        if shape and len(shape) != 2 + len(trailing):
            raise QvggtError(
                f"{path}: output {name} has shape {_shown(shape)}, expected "
                f"[1, S, {', '.join(map(str, trailing))}]; export it with qvggt export"
            )
        found.append(name)
    if not found:
        names = ", ".join(name for name, _ in outputs) or "none"
        raise QvggtError(f"{path}: has outputs {names}, expected some of {', '.join(TRAILING)}; export it again")
    return tuple(found)
