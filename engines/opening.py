"""A runner for whatever a path or name denotes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvggt.engines.engine_runner import SUFFIXES, EngineRunner
from qvggt.engines.manifest import read_manifest
from qvggt.engines.onnx_runner import PROVIDERS, OnnxRunner
from qvggt.engines.openvino_runner import OpenVINORunner
from qvggt.engines.runner import Runner
from qvggt.engines.torch_runner import open_model
from qvggt.errors import QvggtError

RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "rtx", "torch")
KINDS = {"onnx": ("onnxruntime", "openvino"), "engine": ("tensorrt", "rtx"), "model": ("torch",)}


@dataclass(frozen=True)
class RunnerOptions:
    """How to open a file or model; every default is None or False: what fits the file.

    runtime: one of RUNTIMES; by default ONNX Runtime for .onnx, an engine's own, PyTorch for checkpoints. device:
    "cpu" or "cuda[:N]"; by default the CPU, but a GPU for engines. providers: of ONNX Runtime, one of "cpu", "cuda" and
    "tensorrt", or its own names in order of preference; by default what fits the device. precision: "f32" or "bf16"
    for OpenVINO; "fp32", "fp16" or "bf16" for float checkpoints in PyTorch. threads: of ONNX Runtime and OpenVINO
    (PyTorch's are global: torch.set_num_threads). cuda_graph: for engines. revision, offline: of a Hub id.
    """

    runtime: str | None = None
    device: str | None = None
    providers: Sequence[str] | None = None
    precision: str | None = None
    threads: int | None = None
    cuda_graph: bool = False
    revision: str | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        if self.runtime is not None and self.runtime not in RUNTIMES:
            raise QvggtError(f"runtime {self.runtime!r}: expected one of {', '.join(RUNTIMES)}")
        if isinstance(self.providers, str) or (self.providers is not None and not self.providers):
            raise QvggtError(
                f"providers {self.providers!r}: expected a list such as ['cuda'] or ['CPUExecutionProvider']"
            )


def kind_of(source: str | Path) -> str:
    """ "onnx", "engine" or "model" (a checkpoint, or a name of one), by how the name ends."""
    suffix = Path(source).suffix.lower()
    return "onnx" if suffix == ".onnx" else "engine" if suffix in SUFFIXES else "model"


def open_runner(source: str | Path, options: RunnerOptions | None = None, **changes: Any) -> Runner:
    """A runner for an .onnx file, an .engine or .plan file, or what `open_model` knows.

    `changes` replace fields of `options`. QvggtError for an option the source has no use for, as none is ignored, and
    whatever the runners raise.
    """
    options = dataclasses.replace(options or RunnerOptions(), **changes)
    kind = kind_of(source)
    runtime = options.runtime or (_backend(source) if kind == "engine" else KINDS[kind][0])
    if runtime not in KINDS[kind]:
        advice = {"onnx": "build it with qvggt-build first", "engine": "give its ONNX file", "model": "export it first"}
        raise QvggtError(f"{source}: {runtime} runs no such file, {' or '.join(KINDS[kind])} does; {advice[kind]}")
    _check_used(source, runtime, options)
    if kind == "engine":
        return _open_engine(source, runtime, options)
    if runtime == "onnxruntime":
        return _open_onnx(source, options)
    if runtime == "openvino":
        return OpenVINORunner(source, options.precision or "f32", options.threads)
    return open_model(
        source,
        float_type=options.precision,
        device=options.device or "cpu",
        revision=options.revision,
        offline=options.offline,
    )


USES = {
    "onnxruntime": ("device", "providers", "threads"),
    "openvino": ("device", "precision", "threads"),
    "tensorrt": ("device", "cuda_graph"),
    "rtx": ("device", "cuda_graph"),
    "torch": ("device", "precision", "revision", "offline"),
}
HARMLESS = ("runtime", "threads", "offline")  # one setting for a list of candidates of several kinds


def _check_used(source: str | Path, runtime: str, options: RunnerOptions) -> None:
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value not in (None, False) and field.name not in (*USES[runtime], *HARMLESS):
            raise QvggtError(f"{source}: {runtime} has no use for {field.name} {value!r}; leave it out")
    device = options.device
    if runtime == "openvino" and device not in (None, "cpu"):
        raise QvggtError(f"{source}: OpenVINO runs on the CPU here, got device {device}; use onnxruntime, or an engine")
    if runtime in ("tensorrt", "rtx") and device == "cpu":
        raise QvggtError(
            f"{source}: an engine runs on an NVIDIA GPU only, got device cpu; give cuda, or run its ONNX file"
        )


def _open_onnx(source: str | Path, options: RunnerOptions) -> Runner:
    device = options.device or "cpu"
    if device not in ("cpu", "cuda", "cuda:0"):
        raise QvggtError(f"{source}: ONNX Runtime runs on cpu or cuda here, got {device}; set CUDA_VISIBLE_DEVICES")
    names = [device.partition(":")[0]] if options.providers is None else options.providers
    providers = PROVIDERS[names[0]] if len(names) == 1 and names[0] in PROVIDERS else tuple(names)
    return OnnxRunner(source, providers, options.threads)


def _open_engine(source: str | Path, runtime: str, options: RunnerOptions) -> Runner:
    if runtime != _backend(source):
        raise QvggtError(f"{source}: is an engine of {_backend(source)}, not of {runtime}; leave the runtime out")
    return EngineRunner(source, options.device or "cuda", cuda_graph=options.cuda_graph)


def _backend(source: str | Path) -> str:
    """ "rtx" or "tensorrt", from the manifest beside an engine."""
    return "rtx" if read_manifest(source).backend == "rtx" else "tensorrt"
