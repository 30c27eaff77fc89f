"""Where PyTorch computes: the device of a network, moving one there and back, and the same bytes on every run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # without it cuBLAS may add in another order each time


def device_of(module: nn.Module) -> torch.device:
    """Of its parameters, or of its buffers where it is quantized; the CPU where it has neither."""
    import torch

    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def label(device: torch.device) -> str:
    """What a result is recorded with: "cpu", or the name of the card, whichever of several it is."""
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


@contextmanager
def placed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the network is on that device and computes there as `exact` has it; afterwards it is where it was."""
    before = device_of(network)
    try:
        network.to(device)
        with exact(device):
            yield
    finally:
        network.to(before)


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Inside, a GPU gives the same bytes for the same input, and computes fp32 in fp32 (no TF32). A CPU does anyway,
    at one count of threads. What was set before is set again afterwards."""
    import torch

    if device.type != "cuda":
        yield
        return
    given, enabled = os.environ.get(WORKSPACE), torch.are_deterministic_algorithms_enabled()
    warn, precision = torch.is_deterministic_algorithms_warn_only_enabled(), torch.get_float32_matmul_precision()
    memory: Any = torch.utils.deterministic
    fill, convolutions = memory.fill_uninitialized_memory, torch.backends.cudnn
    try:
        os.environ.setdefault(WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # nothing here reads what it has not written
        torch.set_float32_matmul_precision("highest")
        with convolutions.flags(enabled=convolutions.enabled, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        memory.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(enabled, warn_only=warn)
        if given is None:
            os.environ.pop(WORKSPACE, None)
