"""Latency and memory figures of the GPU suite, and the JSON file they are kept in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qvggt.files import atomic_write

WARM_UP = 10
CALLS = 100


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles of single calls; p99 of fewer than 100 calls is close to the largest."""
    values = np.asarray(seconds, np.float64)
    return {
        "p50_s": float(np.quantile(values, 0.5)),
        "p99_s": float(np.quantile(values, 0.99)),
        "mean_s": float(values.mean()),
        "calls": len(values),
    }


def wall_seconds(call: Callable[[], object], calls: int = CALLS, warm_up: int = WARM_UP) -> list[float]:
    """Seconds of `calls` calls that return when they are done, after `warm_up` more."""
    seconds = []
    for turn in range(warm_up + calls):
        start = time.perf_counter()
        call()
        if turn >= warm_up:
            seconds.append(time.perf_counter() - start)
    return seconds


def stream_seconds(
    launch: Callable[[], object], stream: Any, calls: int = CALLS, warm_up: int = WARM_UP
) -> list[float]:
    """As `wall_seconds`, by CUDA events on the stream `launch` fills: without copies to and from the host."""
    import torch

    seconds = []
    for turn in range(warm_up + calls):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record(stream)
        launch()
        end.record(stream)
        end.synchronize()
        if turn >= warm_up:
            seconds.append(start.elapsed_time(end) / 1e3)
    return seconds


def device_bytes() -> int:
    """Bytes in use on the current GPU, by whichever process and allocator."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return int(total - free)


class Results:
    """Name -> figures in one JSON file, written anew after every entry, so that a stopped run keeps what it has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Any] = {}

    def add(self, name: str, figures: dict[str, Any]) -> None:
        self.entries.setdefault(name, {}).update(figures)
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps({"entries": self.entries}, indent=1, sort_keys=True) + "\n")
