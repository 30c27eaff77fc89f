"""OpenVINO runner: an exported model on the CPU."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from qvggt.engines.file_runner import FileRunner
from qvggt.engines.network_file import INPUT, NetworkFile, check_input, check_outputs
from qvggt.engines.pair_runner import open_network
from qvggt.engines.registry import RunnerOptions
from qvggt.engines.runner import ModelFile, Runner, versions
from qvggt.errors import QvggtError
from qvggt.files import check_file, line
from qvggt.lazy import optional
from qvggt.onnx_view.graph import Shape
from qvggt.onnx_view.graph_format import GraphFormat
from qvggt.onnx_view.metadata import Metadata
from qvggt.predictions import TRAILING

DEVICE, IR = "CPU", ".xml"
PRECISIONS = {"f32": "FP32", "bf16": "BF16"}
"""Inference precision -> what the device lists when it has it."""
PLACES = ("Exception from", "Check ", "FrontEnd API", "Model wasn't", "Summary:", "-- ", "While validating")


class OpenVINORunner(FileRunner):
    """Opens an ONNX file or OpenVINO IR (.xml, its .bin beside it), see `NetworkFile` for the interface, on the CPU.

    precision: "f32", or "bf16" for what is not quantized, attention above all: twice as fast on CPUs with bf16
    instructions, and less exact. threads: default all cores. QvggtError for a missing package, a precision this CPU
    lacks, or a file that is missing, corrupt, unsafe or has another interface.
    """

    held = ("request", "compiled")

    def __init__(self, source: str | Path | NetworkFile, precision: str = "f32", threads: int | None = None) -> None:
        if precision not in PRECISIONS:
            raise QvggtError(f"precision {precision!r}: OpenVINO runs {' or '.join(PRECISIONS)} here")
        if threads is not None and threads < 1:
            raise QvggtError(f"threads: expected 1 or more, got {threads}")
        openvino = import_openvino()
        if not isinstance(source, NetworkFile) and Path(source).suffix.lower() == IR:
            source = read_ir(source)
        super().__init__(source)
        self.precision = precision
        self.label = f"openvino {precision} {self.scheme_label} {self.path.name}"
        if any("fp8" in name for name in self.network.format.counts):
            self.notes += ("OpenVINO rounds FP8 through fp16, which moves codes that are near a tie",)
        self.compiled: Any = compile_cpu(openvino, self.path, precision, threads)
        self.request: Any = self.compiled.create_infer_request()

    def run_tensors(self, tensors: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        try:
            self.request.infer(dict(tensors))
            found = {name: self.request.get_tensor(name).data for name in outputs}
            return {name: np.array(x, np.float32 if name in TRAILING else x.dtype) for name, x in found.items()}
        except RuntimeError as error:
            raise self._failure("OpenVINO", tensors, reason(error)) from error

    def describe(self) -> dict[str, Any]:
        openvino = import_openvino()
        return {
            "kind": "openvino",
            **self._facts(),
            "float_type": {"f32": "fp32"}.get(self.precision, self.precision),
            "providers": [DEVICE],
            "device": str(openvino.Core().get_property(DEVICE, "FULL_DEVICE_NAME")).strip(),
            "versions": versions(openvino=openvino.__version__),
        }


def open_openvino(source: str | Path, options: RunnerOptions) -> Runner:
    """As `open_runner` has it."""
    if options.device not in (None, "cpu"):
        raise QvggtError(
            f"{source}: OpenVINO runs on the CPU here, got device {options.device}; use onnxruntime, or an engine"
        )

    def opened(file: str | Path | NetworkFile) -> OpenVINORunner:
        return OpenVINORunner(file, options.precision or "f32", options.threads)

    return opened(source) if Path(source).suffix.lower() == IR else open_network(source, opened)


def import_openvino() -> Any:
    """The openvino module; QvggtError names what to install."""
    return optional("openvino", "openvino is not installed: pip install '.[openvino]' in the clone")


def read_ir(path: str | Path) -> NetworkFile:
    """What OpenVINO IR says of itself: it has none of our metadata. QvggtError as `read_network`."""
    path, openvino = Path(path), import_openvino()
    weights = path.with_suffix(".bin")
    for file in (path, weights):
        check_file(file, "OpenVINO IR, an .xml file with its .bin beside it")
    try:
        model = openvino.Core().read_model(str(path))
    except RuntimeError as error:
        raise QvggtError(f"{path}: OpenVINO cannot read it: {reason(error)}; convert the ONNX file again") from error
    float32 = openvino.Type.f32
    inputs = [
        (_name(port), int(TensorProto.FLOAT if port.get_element_type() == float32 else 0), _shape(port))
        for port in model.inputs
    ]
    frames, size = check_input(path, inputs)
    outputs = check_outputs(path, [(_name(port), _shape(port)) for port in model.outputs])
    files = tuple(ModelFile.of(file) for file in (path, weights))
    return NetworkFile(path, frames, size, outputs, Metadata(path=path), None, files, GraphFormat("", {}, ""))


def _name(port: Any) -> str:
    known = [name for name in port.get_names() if name == INPUT or name in TRAILING]
    return str(known[0] if known else next(iter(sorted(port.get_names())), "an unnamed one"))


def _shape(port: Any) -> Shape:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ()
    return tuple(None if side.is_dynamic else side.get_length() for side in shape)


def reason(error: RuntimeError) -> str:
    """The node and the last words of an OpenVINO exception, which spans a dozen lines of its own source's places."""
    text = str(error)
    node = re.search(r"ONNX node '<Node\(\w+\): ([^>']+)>'", text)
    said = [part.strip() for part in text.splitlines() if part.strip() and not part.strip().startswith(PLACES)]
    return (f"{node[1]}: " if node else "") + (said[-1] if said else line(error))[:200]


def compile_cpu(
    openvino: Any, path: Path, precision: str, threads: int | None, more: Mapping[str, str] | None = None
) -> Any:
    """The compiled model at exactly this precision; QvggtError where OpenVINO or the CPU has it not.

    `more`: further properties of OpenVINO's CPU device.
    """
    core = openvino.Core()
    if PRECISIONS[precision] not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        raise QvggtError(f"precision {precision}: this CPU has no instructions for it; use f32")
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        # weight-only products would otherwise round activations to 8 bits on the way
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        **(more or {}),
    }
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        compiled = core.compile_model(core.read_model(str(path)), DEVICE, config)
    except RuntimeError as error:
        raise QvggtError(f"{path}: OpenVINO refuses it: {reason(error)}; use ONNX Runtime for this file") from error
    actual = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if actual != precision:
        raise QvggtError(f"precision {precision}: OpenVINO chose {actual} instead; use f32")
    return compiled
