"""How much memory a pass takes, estimated, and how many images fit into it.

The estimate counts the largest tensors that live at the same time and was compared with measured peaks (docs of
`estimate`); it is a guide for the default of --max-frames-per-pass, not a promise.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from qvggt.engines.runner import NetworkSizes
from qvggt.models.family import find_family

FLOAT = 4  # bytes
SHARE = 0.7  # of the free memory that is used without --memory-limit: other programs need some, estimates err
RESULTS = 60  # bytes per pixel kept for every image, whatever the pass: points, depth, confidence, colour, masks
TAIL_MAPS = 3.5  # maps of half the DPT features at full size that live together: resized, position code, convolved
SCORE_MAPS = 2.5  # attention score matrices that live together where attention is not fused
TOKEN_MAPS = 22  # token arrays of one width that live together: 4 kept levels of double width, residual, qkv, MLP


UNKNOWN = NetworkSizes(find_family().memory(find_family().assumed[1]))
"""Assumed of a network that does not tell its sizes: those of the network that its family takes files for."""


def estimate(network: NetworkSizes, frames: int, height: int, width: int) -> int:
    """Bytes that one pass adds to a process that has the weights loaded."""
    sizes, pixels = network.sizes, height * width
    tokens = sizes.tokens(height, width)
    together = frames if network.chunk is None else min(frames, network.chunk)
    tail = together * pixels * FLOAT * (TAIL_MAPS * sizes.features / 2 + 2 * sizes.head_channels)
    stream = frames * tokens * sizes.width * FLOAT * TOKEN_MAPS
    outputs = frames * pixels * (3 + 7) * FLOAT
    scores = 0.0
    if not network.fused:
        heads = max(1, sizes.width // sizes.head_width)
        scores = SCORE_MAPS * heads * (frames * tokens) ** 2 * FLOAT
    return int(max(tail, scores) + stream + outputs)


def free_memory(device: str) -> int | None:
    """Bytes that are free on `device` ("cpu", "cuda", "cuda:N"); None where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    amounts = []
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        amounts += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit.isdigit():
            amounts.append(int(limit) - int((group / "memory.current").read_text(encoding="ascii")))
    return max(0, min(amounts)) if amounts else None


def shown(count: int) -> str:
    """Bytes for people: MiB below one GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(1, round(count / 2**20))} MiB"


@dataclass(frozen=True)
class Budget:
    """most: frames that fit into `limit` bytes (None: unknown, no limit was given). pass_bytes: estimate for
    `frames` frames. results_bytes: kept for all images together."""

    most: int
    limit: int | None
    frames: int
    pass_bytes: int
    results_bytes: int

    def describe(self) -> str:
        room = "no limit known" if self.limit is None else f"limit {shown(self.limit)}"
        return (
            f"about {shown(self.pass_bytes)} for a pass of {self.frames} images and {shown(self.results_bytes)} for "
            f"the results (estimated; {room})"
        )


def plan_memory(
    network: NetworkSizes, count: int, size: tuple[int, int], limit: int | None, asked: int | None
) -> Budget:
    """How many of `count` images of `size` (H, W) a pass may hold within `limit` bytes; `asked` overrules it.

    At least one always fits: what a single image takes cannot be split.
    """
    height, width = size
    results = count * height * width * RESULTS
    most = count if asked is None else min(count, asked)
    if asked is None and limit is not None:
        # bytes grow with the number of frames: bisect
        low, high = 1, count
        while low < high:
            middle = (low + high + 1) // 2
            fits = estimate(network, middle, height, width) + results <= limit
            low, high = (middle, high) if fits else (low, middle - 1)
        most = low
    return Budget(most, limit, most, estimate(network, most, height, width), results)
