"""An ONNX file and the data files it names, checked before any runtime follows those names.

A model file is untrusted input: a tensor's `location` could point anywhere on the disk. Allowed are existing regular
files inside the folder of the model, relative and without "..", and no symbolic link may lead out of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import TensorProto

from qvggt.errors import QvggtError
from qvggt.files import reason
from qvggt.tensor_file import line, sniff


@dataclass(frozen=True)
class OnnxFile:
    """A parsed model, its large tensors not loaded, and the external data files it uses, in name order."""

    path: Path
    model: onnx.ModelProto
    data: tuple[Path, ...]


def open_onnx(path: str | Path) -> OnnxFile:
    """Parse a model and check its external data; QvggtError for a missing, corrupt, truncated or escaping file."""
    path = Path(path)
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing" if not path.exists() else "no regular file"
        raise QvggtError(f"{path}: {found} there, expected an ONNX file; check the path")
    try:
        impostor = sniff(path)
        model = None if impostor else onnx.load(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); check it, or get it again") from error
    except Exception as error:  # protobuf's DecodeError has moved between its versions
        raise QvggtError(f"{path}: truncated or corrupt ONNX ({line(error)}); get it again, or export again") from error
    if model is None:
        raise QvggtError(f"{path}: {(impostor or '').replace('weights', 'an ONNX file')}")
    if not model.graph.node:  # a few stray bytes parse as an empty message
        raise QvggtError(f"{path}: holds no ONNX graph; get it again, or export again")
    return OnnxFile(path, model, external_files(model, path))


def external_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """The data files of `model`, which was read from `path`, as real paths; QvggtError for one that is not allowed.

    Inside the model's folder means the folder of `path` or, when `path` is a symbolic link (the Hub's cache), of the
    file it leads to.
    """
    folder = path.parent
    homes = {Path(os.path.realpath(folder)), Path(os.path.realpath(path)).parent}
    files: dict[str, Path] = {}
    for tensor in external_tensors(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in files:
            files[location] = _checked(path, tensor.name, location, homes)
        _check_range(path, tensor.name, entries, files[location])
    return tuple(sorted(set(files.values())))


def external_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of the graph, its subgraphs and functions whose bytes lie in another file."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            nodes.extend(graph.node)
            tensors = list(graph.initializer)
            tensors += [part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices)]
        else:
            tensors = []
            for attribute in nodes.pop().attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
                tensors += [attribute.t] if attribute.HasField("t") else []
                tensors += attribute.tensors
                for sparse in (*attribute.sparse_tensors, attribute.sparse_tensor):
                    tensors += [sparse.values, sparse.indices]
        yield from (tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL)


def _checked(path: Path, tensor: str, location: str, homes: set[Path]) -> Path:
    where = f"{path}: tensor {tensor}: external data {location!r}"
    parts = (PurePosixPath(location), PureWindowsPath(location))
    if not location or "\0" in location or any(p.is_absolute() or p.anchor or ".." in p.parts for p in parts):
        raise QvggtError(f"{where}: expected a relative path inside the model's folder; do not run this file")
    target = path.parent / location
    real = Path(os.path.realpath(target))
    if not any(real.is_relative_to(home) for home in homes):
        raise QvggtError(f"{where}: a symbolic link leads out of the model's folder ({real}); do not run this file")
    if not real.is_file():
        found = "no regular file" if real.exists() else "missing"
        raise QvggtError(f"{where}: {found}; keep the data file beside the model, or export again")
    return real


def _check_range(path: Path, tensor: str, entries: dict[str, str], file: Path) -> None:
    size = file.stat().st_size
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError as error:
        raise QvggtError(f"{path}: tensor {tensor}: offset or length is no number; export again") from error
    if min(offset, length) < 0 or offset + length > size:
        raise QvggtError(
            f"{path}: tensor {tensor}: expected bytes {offset} to {offset + length} of {file.name}, which has {size}: "
            "truncated; get it again, or export again"
        )
