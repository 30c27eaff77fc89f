"""The GPU an engine runs on, through PyTorch: buffers, a stream, the card's generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from qvggt.engines.torch_runner import check_device
from qvggt.errors import QvggtError


@dataclass(frozen=True)
class Gpu:
    """device: of PyTorch. stream: a torch.cuda.Stream, whose `cuda_stream` is the raw handle. capability: "8.9"."""

    device: torch.device
    stream: Any
    name: str
    capability: str

    def wait(self) -> None:
        """Until everything given to the stream is done."""
        self.stream.synchronize()


def open_gpu(device: str = "cuda") -> Gpu:
    """The GPU behind "cuda" or "cuda:N" with a stream of its own; QvggtError where PyTorch sees none."""
    parsed = check_device(device)
    if parsed.type != "cuda":
        raise QvggtError(f"device {device!r}: an engine runs on an NVIDIA GPU only; give cuda, or run its ONNX file")
    parsed = torch.device("cuda", parsed.index or 0)
    major, minor = torch.cuda.get_device_capability(parsed)
    return Gpu(parsed, torch.cuda.Stream(parsed), torch.cuda.get_device_name(parsed), f"{major}.{minor}")
