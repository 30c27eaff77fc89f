"""What TensorRT-RTX makes of a small ONNX file, without a GPU: parse errors, build errors, the compiled layer table.

One worker process loads the library once and forks for every request, so that a crash of the parser ends one fork. The
layer table is the builder's own log (VERBOSE, with DETAILED profiling).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

PROFILE = (1, 8, 64)  # of every dynamic dimension
TARGET = "SM89"


@dataclass(frozen=True)
class Kernel:
    """A row of the layer table: what runs, and the types of what it reads and writes."""

    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """parsed, built: whether it got so far. text: the first error. kernels: rows of the table that compute.

    sha256: of the engine; two builds of one model are equal.
    """

    parsed: bool
    built: bool
    text: str
    kernels: tuple[Kernel, ...] = ()
    sha256: str = ""

    def gemms(self, kind: str) -> int:
        """Integer products whose first input has a type such as Int8."""
        products = [k for k in self.kernels if k.kind in ("gemm", "correlation")]
        return sum(k.inputs[:1] == (kind,) and (*k.inputs[1:], *k.constants)[:1] == (kind,) for k in products)

    def fused(self, kind: str) -> int:
        """Products that read stored codes of this type next to a floating-point activation, in one kernel."""
        rows = [k for k in self.kernels if k.kind == "runtime_fusion"]
        return sum(k.inputs[:1] == ("Half",) and kind in k.constants for k in rows)


class Builder:
    """The worker; a context manager."""

    def __enter__(self) -> Builder:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def build(self, paths: Sequence[Path], target: str = TARGET) -> list[Verdict]:
        """All for one compute capability and in one fork; a crash ends it, and the rest counts as crashed too."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(target, *paths, sep="\t", file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"
        return [_verdict(path.with_suffix(".json")) for path in paths]


def _verdict(result: Path) -> Verdict:
    if not result.exists():
        return Verdict(False, False, "crash")
    found = json.loads(result.read_text())
    rows = tuple(map(_kernel, found["rows"]))
    return Verdict(found["parsed"], found["built"], found["text"], rows, found["sha256"])


Lint = Callable[[Any], set[str]]  # a model -> ids of the rules it breaks
Build = Callable[[Any], Verdict]
BuildAll = Callable[..., list[Verdict]]  # of a list of models and a target


def _kernel(row: str) -> Kernel:
    kind = re.search(r"LayerType: (\w+)", row)
    assert kind is not None
    parts = {}
    for name, following in (
        ("Inputs", "Constants|Outputs"),
        ("Constants", "Outputs"),
        ("Outputs", "TacticName|Metadata|$"),
    ):
        part = re.search(rf"{name}:(.*?)(?:{following})", row)
        parts[name] = tuple(re.findall(r"Datatype: (\w+)", part[1])) if part else ()
    return Kernel(kind[1], parts["Inputs"], parts["Constants"], parts["Outputs"])


def serve() -> None:
    import tensorrt_rtx  # noqa: F401  (loaded once, before the forks)

    for line in sys.stdin:
        target, *paths = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            for path in paths:
                Path(path).with_suffix(".json").write_text(json.dumps(build(path, target)))
            os._exit(0)
        os.waitpid(child, 0)
        print("done", flush=True)


def build(path: str, target: str) -> dict[str, Any]:
    import tensorrt_rtx as trt

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append((severity, message))

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(path):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        return {"parsed": False, "built": False, "text": errors[0] if errors else "", "rows": [], "sha256": ""}
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    for tensor in inputs:
        if -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *([size if d < 0 else d for d in tensor.shape] for size in PROFILE))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    engine = builder.build_serialized_network(network, config)
    texts = [message for severity, message in log.messages if severity <= trt.ILogger.Severity.ERROR]
    tables = [message for _, message in log.messages if message.startswith("Layers:")]
    rows = [row for table in tables for row in table.splitlines()[1:] if "LayerType: " in row]
    idle = re.compile(r"LayerType: (signal|wait|shape_call|allocate|deallocate)\b")
    rows = [row for row in rows if not idle.search(row)]
    text = "" if engine is not None else (texts or ["no engine"])[0]
    digest = "" if engine is None else hashlib.sha256(engine).hexdigest()
    return {"parsed": True, "built": engine is not None, "text": text, "rows": rows, "sha256": digest}


if __name__ == "__main__":
    serve()
