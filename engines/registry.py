"""The runtimes there are: which files each opens, which options it has use for, and where its runner is.

A description is cheap; a runner's module is imported when a file is opened. `register` adds a runtime from anywhere,
and `open_runner` and the commands then know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvggt.errors import QvggtError
from qvggt.lazy import Function, function

if TYPE_CHECKING:
    from qvggt.quant.handle import Model

    Source = str | Path | Model


@dataclass(frozen=True)
class RunnerOptions:
    """How to open a file or model; every default is None or False: what fits the file.

    runtime: one of `runtimes()`; by default ONNX Runtime for .onnx, an engine's own, PyTorch for checkpoints. device:
    "cpu" or "cuda[:N]"; by default the CPU, but a GPU for engines. providers: of ONNX Runtime, one of "cpu", "cuda" and
    "tensorrt", or its own names in order of preference; by default what fits the device. precision: "f32" or "bf16"
    for OpenVINO; "fp32", "fp16" or "bf16" for float checkpoints in PyTorch. threads: of ONNX Runtime and OpenVINO
    (PyTorch's are global: torch.set_num_threads). cuda_graph: for engines. weight_streaming_budget: GB of weights that
    stay on the GPU, for engines built with weight streaming; by default all. revision, offline: of a Hub id.
    """

    runtime: str | None = None
    device: str | None = None
    providers: Sequence[str] | None = None
    precision: str | None = None
    threads: int | None = None
    cuda_graph: bool = False
    revision: str | None = None
    offline: bool = False
    weight_streaming_budget: float | None = None

    def __post_init__(self) -> None:
        if self.runtime is not None and self.runtime not in runtimes():
            raise QvggtError(f"runtime {self.runtime!r}: expected one of {', '.join(runtimes())}")
        if isinstance(self.providers, str) or (self.providers is not None and not self.providers):
            raise QvggtError(
                f"providers {self.providers!r}: expected a list such as ['cuda'] or ['CPUExecutionProvider']"
            )


@dataclass(frozen=True)
class RunnerKind:
    """A runtime. suffixes: of the files it opens, lower case; (): a checkpoint, or the name of one.

    opener(source, options) -> Runner; the options hold a device. uses: fields of RunnerOptions it does not ignore.
    device: where it runs unless asked otherwise. advice: for files it opens, asked to run in another runtime.
    named_by(source) -> name of the runtime a file belongs to, where files of one suffix differ.
    """

    name: str
    suffixes: tuple[str, ...]
    opener: Function
    uses: tuple[str, ...]
    advice: str
    device: str = "cpu"
    named_by: Function | None = None


_KINDS: dict[str, RunnerKind] = {}


def register(kind: RunnerKind) -> RunnerKind:
    """Make a runtime known; QvggtError where the name is taken by another one."""
    if _KINDS.setdefault(kind.name, kind) != kind:
        raise QvggtError(f"runtime {kind.name}: is registered already; choose another name")
    return kind


def runtimes() -> tuple[str, ...]:
    """Names."""
    return tuple(_KINDS)


def file_suffixes() -> tuple[str, ...]:
    """Of all files that some runtime opens."""
    return tuple(dict.fromkeys(suffix for kind in _KINDS.values() for suffix in kind.suffixes))


def kinds_of(source: Source) -> tuple[RunnerKind, ...]:
    """The runtimes that open a source, by how its name ends; the first is the default."""
    suffix = Path(source).suffix.lower() if isinstance(source, str | Path) else ""
    kinds = tuple(kind for kind in _KINDS.values() if suffix in kind.suffixes)
    return kinds or tuple(kind for kind in _KINDS.values() if not kind.suffixes)


def kind_of(source: Source, runtime: str | None = None) -> RunnerKind:
    """The runtime to open a source with, of several files the first; QvggtError for one that opens no such file."""
    source = split_files(source)[0]
    kinds = {kind.name: kind for kind in kinds_of(source)}
    first = next(iter(kinds.values()))
    if runtime is not None and runtime not in kinds:
        raise QvggtError(f"{shown(source)}: {runtime} runs no such file, {' or '.join(kinds)} does; {first.advice}")
    own = None if first.named_by is None else function(first.named_by)(source)
    if None not in (own, runtime) and own != runtime:
        raise QvggtError(f"{source}: is an engine of {own}, not of {runtime}; leave the runtime out")
    return kinds[runtime or own or first.name]


def shown(source: Source) -> str:
    """A source in a message: its path or name, or that of a model in memory."""
    return str(source) if isinstance(source, str | Path) else source.name


def split_runtime(text: str) -> tuple[str | None, str]:
    """ "openvino:a.onnx" -> ("openvino", "a.onnx"), of runtimes that open files; anything else -> (None, text)."""
    head, colon, tail = text.partition(":")
    return (head, tail) if colon and head in _KINDS and _KINDS[head].suffixes else (None, text)


def split_files(source: Source) -> tuple[Source, ...]:
    """ "a.onnx,b.onnx" -> both: files of one network at several image sizes. Anything else is one source."""
    parts = tuple(str(source).split(",")) if isinstance(source, str | Path) else ()
    if len(parts) < 2 or any(Path(part).suffix.lower() not in file_suffixes() for part in parts):
        return (source,)
    return (source,) if Path(str(source)).exists() else parts


_HERE = "qvggt.engines."
_ONNX: dict[str, Any] = {"suffixes": (".onnx",), "advice": "build it with qvggt build first"}
_ENGINE: dict[str, Any] = {
    "suffixes": (".engine", ".plan"),
    "opener": _HERE + "engine_runner:open_engine",
    "uses": ("device", "cuda_graph", "weight_streaming_budget"),
    "advice": "give its ONNX file",
    "device": "cuda",
    "named_by": _HERE + "manifest:runtime_of",
}
_TORCH = ("device", "precision", "revision", "offline")

for _kind in (
    RunnerKind("onnxruntime", uses=("device", "providers", "threads"), opener=_HERE + "onnx_runner:open_onnx", **_ONNX),
    RunnerKind(
        "openvino",
        uses=("device", "precision", "threads"),
        opener=_HERE + "openvino_runner:open_openvino",
        **_ONNX | {"suffixes": (".onnx", ".xml")},
    ),
    RunnerKind("tensorrt", **_ENGINE),
    RunnerKind("rtx", **_ENGINE),
    RunnerKind("torch", (), _HERE + "torch_runner:open_torch", _TORCH, advice="export it first"),
):
    register(_kind)
