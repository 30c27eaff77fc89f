"""ONNX Runtime runner: an exported model on the CPU or any execution provider that is installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from qvggt import __version__
from qvggt.engines.external_data import open_onnx
from qvggt.engines.runner import TRAILING, Array, ModelFile, Runner
from qvggt.errors import QvggtError
from qvggt.onnxruntime_config import SESSION_CONFIG
from qvggt.quant.scheme import Scheme
from qvggt.tensor_file import line

CPU = ("CPUExecutionProvider",)
INPUT = "images"


class OnnxRunner(Runner):
    """Opens an ONNX file with input `images` [1, S, 3, H, W] float32 and outputs named as those of VGGT.forward.

    providers: in order of preference; the first must be usable, none is replaced silently. threads: of one operator,
    default all cores. Metadata of the exporter (`qvggt.*`) is read and compared with the graph; a file without it runs
    too, and `describe` says so. QvggtError for a file that is missing, corrupt, unsafe or has another interface.
    """

    def __init__(
        self,
        path: str | Path,
        providers: Sequence[str] = CPU,
        threads: int | None = None,
        *,
        label: str | None = None,
    ) -> None:
        ort = import_onnxruntime()
        self.path = Path(path)
        opened = open_onnx(self.path)
        self.frames, self.size = _input(self.path, opened.model)
        self.outputs = _outputs(self.path, opened.model)
        self.metadata = {entry.key: entry.value for entry in opened.model.metadata_props if "qvggt." in entry.key}
        self.scheme = _scheme(self.path, self.metadata)
        _check_metadata(self.path, self.metadata, self.size)
        self.files = tuple(ModelFile.of(file) for file in (self.path, *opened.data))
        self.label = label or f"onnxruntime {self.scheme_label} {self.path.name}"
        del opened  # up to 2 GB of weights: the session parses the file itself
        self.session: Any = _session(ort, self.path, providers, threads)

    @property
    def scheme_label(self) -> str:
        return "unknown scheme" if self.scheme is None else self.scheme.label

    @property
    def closed(self) -> bool:
        return self.session is None

    def close(self) -> None:
        self.session = None

    def _run(self, images: Array) -> dict[str, Array]:
        try:
            values = self.session.run(list(self.outputs), {INPUT: np.ascontiguousarray(images)[None]})
        except Exception as error:  # onnxruntime raises its own classes, which have no common base
            raise QvggtError(
                f"{self.path}: ONNX Runtime failed on {len(images)} frames of {images.shape[2]}x{images.shape[3]}: "
                f"{line(error)}"
            ) from error
        return dict(zip(self.outputs, values, strict=True))

    def describe(self) -> dict[str, Any]:
        ort = import_onnxruntime()
        return {
            "kind": "onnxruntime",
            **self._facts(),
            "scheme": self.scheme_label,
            "scheme_json": None if self.scheme is None else self.scheme.to_dict(),
            "providers": None if self.session is None else self.session.get_providers(),
            "metadata": self.metadata or "none: not written by qvggt-export, so scheme and source are unknown",
            "versions": {
                "qvggt": __version__,
                "onnxruntime": ort.__version__,
                "onnx": onnx.__version__,
                "numpy": np.__version__,
            },
        }


def import_onnxruntime() -> Any:
    """The onnxruntime module; QvggtError names what to install."""
    try:
        import onnxruntime
    except ImportError as error:
        raise QvggtError(
            "onnxruntime is not installed: pip install onnxruntime, or 'qvggt[gpu]' for NVIDIA GPUs"
        ) from error
    return onnxruntime


def session_options(ort: Any, threads: int | None = None) -> Any:
    """Options under which ONNX Runtime computes the numbers the file says."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: they come back as exceptions
    for key, value in SESSION_CONFIG.items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        if threads < 1:
            raise QvggtError(f"threads: expected 1 or more, got {threads}")
        options.intra_op_num_threads = threads
    return options


def _session(ort: Any, path: Path, providers: Sequence[str], threads: int | None) -> Any:
    available = ort.get_available_providers()
    for provider in providers:
        if provider not in available:
            raise QvggtError(
                f"{provider}: not in this onnxruntime, which has {', '.join(available)}; "
                "NVIDIA GPUs need pip install 'qvggt[gpu]'"
            )
    try:
        session = ort.InferenceSession(str(path), session_options(ort, threads), providers=list(providers))
    except QvggtError:
        raise
    except Exception as error:  # onnxruntime raises its own classes, which have no common base
        raise QvggtError(f"{path}: ONNX Runtime refuses it: {line(error)}; export again") from error
    # a provider whose libraries are missing is dropped with a log line only: timings would be of another device
    if providers and session.get_providers()[0] != providers[0]:
        raise QvggtError(
            f"{providers[0]}: could not start, only {', '.join(session.get_providers())} did; "
            "check its driver and libraries"
        )
    session.disable_fallback()
    return session


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
