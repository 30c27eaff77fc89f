"""What to build: backend, float type, frame counts and GPU generations of one engine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from qvggt.engines.compatibility import why_not
from qvggt.errors import QvggtError

BACKENDS = ("rtx", "tensorrt", "trtexec")
PRECISIONS = ("fp32", "fp16", "bf16")
SUFFIXES = (".engine", ".plan")
FRAMES = (1, 8, 32)  # of a file that states none


@dataclass(frozen=True)
class BuildConfig:
    """Settings of one build.

    backend: "rtx" (TensorRT-RTX; needs no GPU), "tensorrt" or "trtexec". precision: the float type the ONNX network
    must have, None to take any; it converts nothing, as networks are strongly typed. frames: (min, opt, max) of the
    symbolic frame count, None for what the file's metadata says. compute_capabilities: GPU generations such as "8.9",
    rtx only; empty for the builder's portable default.
    """

    backend: str = "rtx"
    precision: str | None = None
    frames: tuple[int, int, int] | None = None
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise QvggtError(f"--backend {self.backend!r}: expected one of {', '.join(BACKENDS)}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise QvggtError(f"--precision {self.precision!r}: expected one of {', '.join(PRECISIONS)}")
        if self.frames is not None and not 1 <= self.frames[0] <= self.frames[1] <= self.frames[2]:
            raise QvggtError(f"--frames {':'.join(map(str, self.frames))}: expected 1 <= min <= opt <= max")
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
