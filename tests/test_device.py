"""Where a network is, and what is set for a GPU while one computes; the settings can be seen without one."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from qvggt.device import WORKSPACE, device_of, exact, label, placed

CPU, META = torch.device("cpu"), torch.device("meta")


def settings() -> list[Any]:
    cudnn, memory = torch.backends.cudnn, torch.utils.deterministic
    return [
        os.environ.get(WORKSPACE),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        memory.fill_uninitialized_memory,  # type: ignore[attr-defined]
        cudnn.deterministic,
        cudnn.benchmark,
        cudnn.allow_tf32,
    ]


def test_exact_is_set_on_a_gpu_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.set_float32_matmul_precision("high")
    before = settings()
    with exact(torch.device("cuda", 1)):
        assert settings() == [":4096:8", True, "highest", False, True, False, False]
    assert settings() == before
    with pytest.raises(KeyError), exact(torch.device("cuda")):
        raise KeyError
    assert settings() == before
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with exact(torch.device("cuda")):
        assert os.environ[WORKSPACE] == ":16:8"
    with exact(CPU):
        assert settings()[1:] == before[1:]
    torch.set_float32_matmul_precision("highest")  # PyTorch's own


def test_a_network_comes_back() -> None:
    network = torch.nn.Linear(2, 2)
    with placed(network, META):
        assert device_of(network) == META
        network.to_empty(device=CPU)  # the meta device gives no numbers back
    assert device_of(network) == CPU
    buffers = torch.nn.Module()
    assert device_of(buffers) == CPU
    buffers.register_buffer("codes", torch.zeros(1, device=META))
    assert device_of(buffers) == META


def test_a_result_is_recorded_with_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert label(torch.device("cuda", 1)) == "cuda (NVIDIA H200)"
    assert label(CPU) == "cpu"
