"""Which frames and image size a parity gate can do in the memory that is free, estimated before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qvggt.engines.runner import NetworkSizes
from qvggt.errors import QvggtError
from qvggt.eval.reconstruction.memory import SHARE, estimate, free_memory, shown
from qvggt.models.dpt import FRAMES_PER_CHUNK
from qvggt.models.family import family_of
from qvggt.models.network import Network

FRAMES = (1, 2, 5, 8)  # of the end-to-end comparison, as far as they fit
SESSION = 1.4  # ONNX Runtime holds some weights twice; docs/results/load_memory.json has three files of VGGT-1B


@dataclass(frozen=True)
class GateNeeds:
    """What the memory of a gate depends on: the file's network in ONNX Runtime, bytes of its weights, its own size in
    pixels (H, W), and the bytes that are free (None: not known)."""

    network: NetworkSizes
    weights: int
    size: tuple[int, int]
    free: int | None

    @classmethod
    def of(cls, network: Network, size: tuple[int, int], fused: bool, chunk: int | None) -> GateNeeds:
        """Of a quantized or float network that is in memory already. fused, chunk: of `NetworkSizes`."""
        weights = sum(tensor.nbytes for tensor in network.state_dict().values())
        sizes = NetworkSizes(family_of(network).memory(network.config), fused, chunk)
        return cls(sizes, weights, size, free_memory("cpu"))

    def bytes(self, frames: int, size: tuple[int, int]) -> int:
        """Beside the reference's weights: the session, its pass, and the reference's pass."""
        reference = replace(self.network, fused=True, chunk=FRAMES_PER_CHUNK)
        passes = sum(estimate(network, frames, *size) for network in (self.network, reference))
        return int(SESSION * self.weights) + passes


@dataclass(frozen=True)
class Fit:
    """Frame counts and image size (H, W) of the end-to-end comparison, what the largest needs and what is free."""

    frames: tuple[int, ...]
    size: tuple[int, int]
    needs: int
    free: int | None

    def __str__(self) -> str:
        height, width = self.size
        free = "what is free is not known" if self.free is None else f"{shown(self.free)} are free"
        return f"up to {max(self.frames)} frames of {height}x{width} need about {shown(self.needs)}, {free}"


def fit_gate(
    needs: GateNeeds, patch: int, frames: tuple[int, ...] | None = None, size: tuple[int, int] | None = None
) -> Fit:
    """What was asked for, or what fits: as many of FRAMES as possible at the file's own size; where not even two
    frames do, two of a smaller size.

    QvggtError, before any work, where that needs more than is free.
    """
    limit = None if needs.free is None else SHARE * needs.free
    if size is None and limit is not None:
        size = next((each for each in _sizes(needs.size, patch) if needs.bytes(_two(frames), each) <= limit), None)
    size = size or needs.size
    if frames is None:
        fitting = tuple(n for n in FRAMES if limit is None or needs.bytes(n, size) <= limit)
        frames = fitting or FRAMES[:1]
    fit = Fit(frames, size, needs.bytes(max(frames), size), needs.free)
    if needs.free is not None and fit.needs > needs.free:
        raise QvggtError(
            f"parity: {fit}; take fewer --parity-frames, a smaller --parity-size, or write the file with --no-check"
        )
    return fit


def _two(frames: tuple[int, ...] | None) -> int:
    """What a size is chosen by: global attention is between frames, so two at least."""
    return 2 if frames is None else max(frames)


def _sizes(size: tuple[int, int], patch: int) -> list[tuple[int, int]]:
    """The size, then smaller ones of about its shape, down to two patches."""
    height, width = size
    return [size] + [
        (max(1, round(height * share / 16 / patch)) * patch, max(1, round(width * share / 16 / patch)) * patch)
        for share in range(15, 1, -1)
    ]
