"""What a machine does in a second: this one as measured, a named GPU by its data sheet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from qvggt.calib.work import Kind, Operation, Work

T, G = 1e12, 1e9


@dataclass(frozen=True)
class Machine:
    """Peak rates.

    fp64, fp32, half: floating-point operations a second of matrix products in these types (half: fp16 and bf16 with
    fp32 sums, dense; fp32 without TF32, which a calibration never uses). bandwidth: bytes a second of its memory.
    memory: bytes of that. source: where the figures are from. attention: of fp32 attention kernels, None: as fp32.
    link: bytes a second from the host, None where there is no such way. call: seconds until a kernel runs. efficiency:
    the shares of these peaks that real code reaches, low and high.
    """

    title: str
    fp64: float
    fp32: float
    half: float
    bandwidth: float
    memory: int
    source: str
    attention: float | None = None
    link: float | None = None
    call: float = 5e-6
    efficiency: tuple[float, float] = (0.3, 0.8)

    def seconds(self, work: Work) -> float:
        """At the peaks: each kernel waits for its arithmetic or for its bytes, whichever takes longer."""
        return work.total(self._seconds)

    def _seconds(self, operation: Operation) -> float:
        if operation.kind == "copy":
            return 0.0 if self.link is None else self.call + operation.bytes / self.link
        return self.call + max(operation.bytes / self.bandwidth, operation.flops / self._rate(operation.kind))

    def _rate(self, kind: Kind) -> float:
        rates = {"fp64": self.fp64, "fp32": self.fp32, "half": self.half}
        return rates.get(kind, self.attention or self.fp32)


def _gpu(
    title: str, tflops: tuple[float, float, float], speeds: tuple[float, float], memory: int, source: str
) -> Machine:
    """tflops: fp64, fp32, half. speeds: of the memory and of the way from the host, GB/s. memory: GB."""
    (fp64, fp32, half), (bandwidth, link) = (rate * T for rate in tflops), (speed * G for speed in speeds)
    return Machine(title, fp64, fp32, half, bandwidth, memory * 10**9, source, link=link)


FP64 = "fp64 is 1/64 of fp32"
MACHINES = {
    "rtx3090": _gpu("GeForce RTX 3090", (0.556, 35.6, 71), (936, 31.5), 24, f"NVIDIA Ampere GA102 white paper; {FP64}"),
    "rtx4090": _gpu("GeForce RTX 4090", (1.29, 82.6, 165.2), (1008, 31.5), 24, f"NVIDIA Ada white paper; {FP64}"),
    "rtx5090": _gpu(
        "GeForce RTX 5090", (1.64, 104.8, 209.5), (1792, 63), 32, f"NVIDIA RTX Blackwell white paper; {FP64}"
    ),
    "a100": _gpu("A100 SXM 80 GB", (9.7, 19.5, 312), (2039, 31.5), 80, "NVIDIA A100 data sheet"),
    "h100": _gpu("H100 SXM 80 GB", (34, 67, 989), (3350, 63), 80, "NVIDIA H100 data sheet, without sparsity"),
    "orin": _gpu(
        "Jetson AGX Orin 64 GB",
        (0.083, 5.3, 42.5),
        (204.8, 204.8),
        64,
        f"NVIDIA Jetson AGX Orin technical brief, half from its 170 sparse INT8 TOPS; {FP64}",
    ),
}
"""Names of --plan-device. None of them was measured here."""


def find_machine(name: str) -> Machine:
    """QvggtError lists the names there are."""
    if name not in MACHINES:
        raise QvggtError(f"--plan-device {name!r}: expected one of {', '.join(MACHINES)}")
    return MACHINES[name]


@dataclass(frozen=True)
class Rates:
    """What this machine's CPU reached in a few short runs of products, attention and additions, each run for itself."""

    runs: dict[str, list[float]] = field(default_factory=dict)

    @property
    def machine(self) -> Machine:
        """By the middle of the runs, which are the code itself: no share is taken off."""
        middle = {name: median(values) for name, values in self.runs.items()}
        return Machine("this machine", half=middle["fp32"], memory=0, source="measured", efficiency=(1, 1), **middle)


def measure_rates(runs: int = 3) -> Rates:
    """About a second on this CPU, with as many threads as PyTorch has."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    wide, exact, heads = noise(1024, 1024), noise(512, 512, dtype=torch.float64), noise(1, 4, 1024, 64)
    large, small, out = noise(1 << 24), noise(64), torch.empty(1 << 24)
    with torch.no_grad():
        tasks: dict[str, tuple[float, Callable[[], object]]] = {
            "fp32": (2 * 1024**3, lambda: wide @ wide),
            "fp64": (2 * 512**3, lambda: exact @ exact),
            "attention": (
                4 * 1024 * heads.numel(),
                lambda: torch.nn.functional.scaled_dot_product_attention(heads, heads, heads),
            ),
            "bandwidth": (12 * large.numel(), lambda: torch.add(large, large, out=out)),
        }
        found = {name: [amount / _seconds(run) for _ in range(runs)] for name, (amount, run) in tasks.items()}
        found["call"] = [_seconds(lambda: [small.add(1) for _ in range(1000)]) / 1000 for _ in range(runs)]
    return Rates(found)


def _seconds(run: Callable[[], object]) -> float:
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
