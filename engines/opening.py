"""A runner for whatever a path or name denotes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qvggt.engines.onnx_runner import CPU, OnnxRunner
from qvggt.engines.runner import Runner
from qvggt.engines.torch_runner import open_model
from qvggt.errors import QvggtError


def open_runner(
    source: str | Path, *, device: str = "cpu", providers: Sequence[str] | None = None, threads: int | None = None
) -> Runner:
    """A path ending in .onnx -> OnnxRunner; anything else -> `open_model`, see there for the names it knows.

    device: of PyTorch, "cpu" or "cuda[:N]". providers: of ONNX Runtime; by default those that fit the device. threads:
    of ONNX Runtime (PyTorch's are global: torch.set_num_threads).
    """
    if Path(source).suffix.lower() == ".onnx":
        if device not in ("cpu", "cuda", "cuda:0"):
            raise QvggtError(f"{source}: ONNX Runtime runs on cpu or cuda here, got {device}; set CUDA_VISIBLE_DEVICES")
        fitting = ("CUDAExecutionProvider", *CPU) if device.startswith("cuda") else CPU
        return OnnxRunner(source, fitting if providers is None else providers, threads)
    return open_model(source, device=device)
