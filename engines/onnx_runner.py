"""ONNX Runtime runner: an exported model on the CPU or any execution provider that is installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from qvggt.engines.expanded_weights import Expanded, expanded
from qvggt.engines.file_runner import FileRunner
from qvggt.engines.network_file import NetworkFile
from qvggt.engines.pair_runner import open_network
from qvggt.engines.registry import RunnerOptions
from qvggt.engines.runner import Runner, versions
from qvggt.errors import QvggtError
from qvggt.files import line
from qvggt.lazy import optional
from qvggt.onnxruntime_config import session_options

CPU = ("CPUExecutionProvider",)
CUDA = ("CUDAExecutionProvider", *CPU)
TENSORRT = ("TensorrtExecutionProvider", *CUDA)
PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
PROPAGATION = "QDQPropagationTransformer"
HEAVY = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Softmax")

ProviderOptions = Mapping[str, Mapping[str, str]]


class OnnxRunner(FileRunner):
    """Opens an ONNX file, see `NetworkFile` for its interface.

    providers: in order of preference; the first must be usable and take the matrix products, none is replaced
    silently. provider_options: provider -> its options, added to those that `tensorrt_options` gives. threads: of one
    operator, default all cores. Metadata of the exporter (`qvggt.*`) is read and compared with the graph; a file
    without it runs too, and `describe` says so. QvggtError for a file that is missing, corrupt, unsafe or has another
    interface.
    """

    held = ("session", "expanded")

    def __init__(
        self,
        source: str | Path | NetworkFile,
        providers: Sequence[str] = CPU,
        threads: int | None = None,
        *,
        provider_options: ProviderOptions | None = None,
    ) -> None:
        ort = import_onnxruntime()
        _check_providers(ort, providers)
        super().__init__(source)
        first = "" if tuple(providers) == CPU or not providers else f" {providers[0].removesuffix('ExecutionProvider')}"
        self.label = f"onnxruntime{first.lower()} {self.scheme_label} {self.path.name}"
        options = {name: dict((provider_options or {}).get(name, {})) for name in providers}
        if TENSORRT[0] in options:
            options[TENSORRT[0]] = tensorrt_options(self.network) | options[TENSORRT[0]]
        self.session: Any
        self.expanded = expanded(ort, self.path) if tuple(providers) == CPU else None
        if self.expanded is not None and self.expanded.fp4:
            self.notes += ("ONNX Runtime has no FP4: written out in float operators, for the numbers alone",)
        self.session, without = _session(ort, self.path, options, threads, self.expanded)
        if without:
            self.notes += (f"ONNX Runtime {ort.__version__} cannot open it as it is, opened without {without}",)
        self.device = "cuda" if CUDA[0] in options or TENSORRT[0] in options else "cpu"
        self.settings: Any = None
        if tuple(providers) == CPU and self.metadata.half is not None:
            self.settings = ort.RunOptions()  # or the one half's session keeps what the other one needs
            self.settings.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def run_tensors(self, tensors: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        try:
            values = self.session.run(list(outputs), dict(tensors), self.settings)
        except Exception as error:  # onnxruntime raises its own classes, which have no common base
            raise self._failure("ONNX Runtime", tensors, line(error)) from error
        return dict(zip(outputs, values, strict=True))

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "onnxruntime",
            **self._facts(),
            "providers": None if self.session is None else self.session.get_providers(),
            "placement": None if self.session is None else placement(self.session),
            "versions": versions(onnxruntime=import_onnxruntime().__version__, onnx=onnx.__version__),
        }


def open_onnx(source: str | Path, options: RunnerOptions) -> Runner:
    """As `open_runner` has it: providers by their own names, by one of ours, or by what fits the device."""
    device = options.device or "cpu"
    if device not in ("cpu", "cuda", "cuda:0"):
        raise QvggtError(f"{source}: ONNX Runtime runs on cpu or cuda here, got {device}; set CUDA_VISIBLE_DEVICES")
    names = [device.partition(":")[0]] if options.providers is None else options.providers
    providers = PROVIDERS[names[0]] if len(names) == 1 and names[0] in PROVIDERS else tuple(names)
    return open_network(source, lambda network: OnnxRunner(network, providers, options.threads))


def import_onnxruntime() -> Any:
    """The onnxruntime module; QvggtError names what to install."""
    advice = "onnxruntime is not installed: pip install onnxruntime, or onnxruntime-gpu for NVIDIA GPUs"
    return optional("onnxruntime", advice)


def tensorrt_options(network: NetworkFile) -> dict[str, str]:
    """Options of the TensorRT provider: INT8 kernels for Q/DQ nodes, one engine for the file's range of frames.

    Without a range the provider builds a new engine, for minutes, whenever a larger frame count arrives.
    """
    options = {"trt_int8_enable": "1", "trt_fp16_enable": "1"}
    if network.size is not None:
        for word, frames in zip(("min", "opt", "max"), network.frame_profile, strict=True):
            shapes = {name: f"1x{frames}x{'x'.join(map(str, dims[2:]))}" for name, dims in network.inputs.items()}
            options[f"trt_profile_{word}_shapes"] = ",".join(f"{name}:{shape}" for name, shape in shapes.items())
    return options


def placement(session: Any) -> dict[str, int] | None:
    """Execution provider -> nodes it was given; None where this onnxruntime does not tell."""
    nodes = _nodes(session)
    return None if nodes is None else dict(Counter(provider for provider, _ in nodes))


def _nodes(session: Any) -> list[tuple[str, str]] | None:
    """(execution provider, operator) of every node."""
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # missing before onnxruntime 1.24, and raises its own classes where nothing was recorded
        return None
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


def _check_providers(ort: Any, providers: Sequence[str]) -> None:
    available = ort.get_available_providers()
    for provider in providers:
        if provider not in available:
            raise QvggtError(
                f"{provider}: not in this onnxruntime, which has {', '.join(available)}; "
                "NVIDIA GPUs need pip uninstall onnxruntime, then pip install onnxruntime-gpu"
            )


def _session(
    ort: Any, path: Path, providers: Mapping[str, dict[str, str]], threads: int | None, lean: Expanded | None = None
) -> tuple[Any, str | None]:
    """The session, and the optimizer that had to be left out for it to open."""
    names = list(providers)
    if CUDA[0] in names and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from their wheels, which no search path leads to
    options = session_options(ort, threads)
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    if lean is not None:
        lean.give(options)
    session, without = _opened(ort, path, options, list(providers.items()), None if lean is None else lean.model)
    if lean is not None:
        lean.settle()
    # a provider whose libraries are missing is dropped with a log line only: timings would be of another device
    if names and session.get_providers()[0] != names[0]:
        raise QvggtError(
            f"{names[0]}: could not start, only {', '.join(session.get_providers())} did; check its libraries"
        )
    if names and names[0] not in CPU:
        _check_placement(path, session, names[0])
    session.disable_fallback()
    return session, without


def _opened(ort: Any, path: Path, options: Any, providers: list[Any], model: bytes | None) -> tuple[Any, str | None]:
    """Of `model` instead of the file where there is one. An optimizer can turn a good graph into one that ONNX Runtime
    refuses: it copies Q and DQ beyond operators that only move data, and mistakes their type (lint rule QV701)."""
    failed: list[Exception] = []
    for without in (None, PROPAGATION):
        try:
            left_out = {} if without is None else {"disabled_optimizers": [without]}
            return ort.InferenceSession(model or str(path), options, providers=providers, **left_out), without
        except Exception as error:  # onnxruntime raises its own classes, which have no common base
            failed.append(error)
            if not _type_error(error):
                break
    raise QvggtError(f"{path}: ONNX Runtime refuses it: {line(failed[0])}; export again") from failed[0]


def _type_error(error: Exception) -> bool:
    """Whether it may be an inserted Q or DQ that the graph is refused for."""
    return any(words in str(error) for words in ("TypeInferenceError", "Type Error")) and "uantizeLinear" in str(error)


def _check_placement(path: Path, session: Any, first: str) -> None:
    """Single operators move to the CPU without a word where a provider lacks them; shape arithmetic belongs there."""
    left = Counter(op for provider, op in _nodes(session) or () if provider in CPU and op in HEAVY)
    if left:
        raise QvggtError(
            f"{path}: {first} takes not all of it, left to the CPU: "
            f"{', '.join(f'{count} {op}' for op, count in sorted(left.items()))}; export for that target"
        )
