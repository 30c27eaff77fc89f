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
    found = check_device(device)
    if found.type != "cuda":
        raise QvggtError(f"device {device!r}: an engine runs on an NVIDIA GPU only; give cuda, or run its ONNX file")
    found = torch.device("cuda", found.index or 0)
    major, minor = torch.cuda.get_device_capability(found)
    return Gpu(found, torch.cuda.Stream(found), torch.cuda.get_device_name(found), f"{major}.{minor}")
