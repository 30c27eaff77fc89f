"""Latency and memory figures of tests/gpu and of tools/gpu_proof.py, and the JSON file a suite keeps them in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    return [_event_seconds(launch, stream) for _ in range(warm_up + calls)][warm_up:]


def _event_seconds(launch: Callable[[], object], stream: Any) -> float:
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record(stream)
    launch()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end) / 1e3)


def seconds_within(limit: float, launch: Callable[[], object], device: str, warm_up: int = 2) -> list[float]:
    """Seconds of single calls: after `warm_up` as many as take `limit` seconds together, but 3 at the least and `CALLS`
    at the most. On a GPU by CUDA events on its current stream, which PyTorch's own operators fill."""
    import torch

    stream = torch.cuda.current_stream(device) if device.startswith("cuda") else None
    seconds: list[float] = []
    for turn in range(warm_up + CALLS):
        once = wall_seconds(launch, 1, 0)[0] if stream is None else _event_seconds(launch, stream)
        if turn >= warm_up:
            seconds.append(once)
        if len(seconds) >= 3 and sum(seconds) >= limit:
            break
    return seconds


@contextmanager
def peak_bytes(device: str) -> Iterator[dict[str, int]]:
    """After the block the dictionary holds "peak_bytes": the most PyTorch had allocated on the GPU inside it;
    "added_bytes": how much more than before it. Empty for a CPU."""
    import torch

    found: dict[str, int] = {}
    if not device.startswith("cuda"):
        yield found
        return
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield found
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    found |= {"peak_bytes": int(peak), "added_bytes": int(peak - before)}


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
