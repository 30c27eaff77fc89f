"""What to build: backend, float type, frame counts, GPU generations and the builder's options of one engine."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qvggt.engines.compatibility import why_not
from qvggt.errors import QvggtError

BACKENDS = ("rtx", "tensorrt", "trtexec")
PRECISIONS = ("fp32", "fp16", "bf16")
SUFFIXES = (".engine", ".plan")
FRAMES = (1, 8, 32)  # of a file that states none
LEVELS = 5  # the highest optimisation level there is
NOT_RTX = {  # option -> why TensorRT-RTX has it not, as built and compared by tests/engines/test_builder_options.py
    "timing_cache": "TensorRT-RTX times no kernels when it builds",
    "optimization_level": "TensorRT-RTX plans the same kernels at every level",
    "version_compatible": "TensorRT-RTX has no lean runtime to put into the engine, which runs on its version only",
}

FrameRange = tuple[int, int, int]


@dataclass(frozen=True)
class BuilderOptions:
    """What a builder is asked for beyond the network; a default is the builder's own.

    timing_cache: file of kernel timings, read where it is there and written after a build (not rtx).
    optimization_level: 0 to 5, how long to look for kernels (not rtx). workspace: GB a kernel may use beside its
    tensors. weight_streaming: weights may stay in host memory at run time. version_compatible: the engine runs on newer
    versions too, as it holds a runtime (not rtx).
    """

    timing_cache: Path | None = None
    optimization_level: int | None = None
    workspace: float | None = None
    weight_streaming: bool = False
    version_compatible: bool = False

    def given(self) -> dict[str, Any]:
        """Those that are not the builder's own, JSON-ready."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if value is not None and value is not False
        }

    @property
    def workspace_bytes(self) -> int | None:
        return None if self.workspace is None else int(self.workspace * 1e9)

    def check(self, backend: str) -> None:
        """QvggtError for an option the backend has not, or a value out of range."""
        for name in self.given():
            if backend == "rtx" and name in NOT_RTX:
                raise QvggtError(f"{option(name)}: {NOT_RTX[name]}; leave it out, or use --backend tensorrt")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= LEVELS:
            raise QvggtError(f"--optimization-level {self.optimization_level}: expected 0 to {LEVELS}")
        if self.workspace is not None and not 0 < self.workspace < 1e6:
            raise QvggtError(f"--workspace {self.workspace}: expected GB above 0")


def option(name: str) -> str:
    """The command's word for a field."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class BuildConfig:
    """Settings of one build.

    backend: "rtx" (TensorRT-RTX; needs no GPU), "tensorrt" or "trtexec". precision: the float type the ONNX network
    must have, None to take any; it converts nothing, as networks are strongly typed. frames: (min, opt, max) of the
    symbolic frame count, None for what the file's metadata says; profiles: further ones, each with kernels of its own.
    compute_capabilities: GPU generations such as "8.9", rtx only; empty for the builder's portable default.
    """

    backend: str = "rtx"
    precision: str | None = None
    frames: FrameRange | None = None
    compute_capabilities: tuple[str, ...] = ()
    profiles: tuple[FrameRange, ...] = ()
    options: BuilderOptions = BuilderOptions()

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise QvggtError(f"--backend {self.backend!r}: expected one of {', '.join(BACKENDS)}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise QvggtError(f"--precision {self.precision!r}: expected one of {', '.join(PRECISIONS)}")
        given = [] if self.frames is None else [("--frames", self.frames)]
        for name, frames in (*given, *(("--profile", profile) for profile in self.profiles)):
            if not 1 <= frames[0] <= frames[1] <= frames[2]:
                raise QvggtError(f"{name} {':'.join(map(str, frames))}: expected 1 <= min <= opt <= max")
        self.options.check(self.backend)
        if self.compute_capabilities and self.backend != "rtx":
            raise QvggtError(
                f"--cc: --backend {self.backend} builds for the GPU it runs on; leave --cc out, or use --backend rtx"
            )
        for wanted in self.compute_capabilities:
            if reason := why_not(self.backend, capability=wanted):
                raise QvggtError(f"--cc {wanted}: {reason}")


def capability(text: str) -> str:
    """A compute capability such as "8.6"; QvggtError for anything else."""
    if not re.fullmatch(r"\d{1,2}\.\d", text):
        raise QvggtError(f"--cc: expected compute capabilities such as 8.6,8.9,12.0, got {text!r}")
    return text


def check_output(path: Path) -> None:
    """QvggtError for a name that is no engine's."""
    if path.suffix not in SUFFIXES:
        raise QvggtError(f"{path}: expected a file name ending in {' or '.join(SUFFIXES)}")


def enum_name(capability: str) -> str:
    """Such as "12.0" -> "SM120": the name TensorRT-RTX gives it."""
    return f"SM{capability.replace('.', '')}"
