"""The GPU an engine runs on, through PyTorch: its memory, a stream, graphs. Nothing else here calls torch.cuda.

Everything happens under `Gpu.active`, which makes the card and the stream current (a second card is otherwise handed
pointers of the first) and turns what CUDA complains of into one line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qvggt.engines.torch_runner import check_device
from qvggt.errors import QvggtError
from qvggt.files import line

OUT_OF_MEMORY = ("out of memory", "outofmemory", "memory allocation", "failed_allocation", "cudaerrormemoryallocation")
ELSEWHERE = "copy the engine and its manifest to a machine with that GPU, or evaluate its ONNX file here"


@dataclass(frozen=True)
class Gpu:
    """device: of PyTorch. stream: a torch.cuda.Stream, whose `cuda_stream` is the raw handle. capability: "8.9"."""

    device: torch.device
    stream: Any
    name: str
    capability: str

    @contextlib.contextmanager
    def active(self, what: str) -> Iterator[Any]:
        """The card and the stream are current; yields the stream that was. QvggtError, beginning with `what`, for an
        error of CUDA."""
        try:
            with torch.cuda.device(self.device):
                caller = torch.cuda.current_stream(self.device)
                with torch.cuda.stream(self.stream):
                    yield caller
        except torch.OutOfMemoryError as error:
            raise self.out_of_memory(what) from error
        except RuntimeError as error:  # PyTorch raises this, or a subclass, for every error of CUDA
            if "cuda" not in str(error).lower():
                raise
            if is_out_of_memory(str(error)):
                raise self.out_of_memory(what) from error
            words = line(error).split(" CUDA kernel errors might")[0].rstrip(".")
            raise QvggtError(f"{what}: {self.name} failed: {words}; start the process again") from error

    def wait(self) -> None:
        """Until everything given to the stream is done."""
        self.stream.synchronize()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Memory of the card, aligned to 256 bytes at least, as PyTorch's allocator does."""
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Memory of the host that copies to and from without waiting; ordinary memory where no more can be pinned."""
        try:
            return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
        except RuntimeError:
            return torch.empty(tuple(shape), dtype=dtype)

    def captured(self, launch: Callable[[], None]) -> Any:
        """A CUDA graph of what `launch` gives to the stream; `replay()` of it launches that again."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            launch()
        return graph

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies on this card."""
        return tensor.device == self.device

    def reads(self, tensor: torch.Tensor) -> None:
        """The stream reads memory of another one's: it is not given away before that is done."""
        tensor.record_stream(self.stream)

    def free(self) -> tuple[int, int]:
        """Free and total bytes of the card; PyTorch's own unused blocks count as free."""
        free, total = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return free + unused, total

    def out_of_memory(self, what: str, needed: int | None = None) -> QvggtError:
        """What there was, what was needed where that is known, and what helps."""
        free, total = self.free()
        asked = "" if needed is None else f"needs {gigabytes(needed)}, "
        return QvggtError(
            f"{what}: out of GPU memory: {asked}{gigabytes(free)} of {gigabytes(total)} are free on {self.name}; "
            "give fewer frames at a time, or close what else runs there"
        )


def gigabytes(count: int) -> str:
    """Such as "1.31 GB" or "8.20 MB"."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def is_out_of_memory(words: str) -> bool:
    """Whether an error of CUDA, PyTorch or TensorRT is about memory."""
    return any(sign in words.lower() for sign in OUT_OF_MEMORY)


def check_gpu(what: object, device: str) -> torch.device:
    """The GPU an engine, which messages call `what`, can run on; QvggtError for another device, and where PyTorch sees
    none."""
    if not device.startswith("cuda"):
        words = f"an engine runs on an NVIDIA GPU only, got device {device}; give cuda, or {ELSEWHERE}"
        raise QvggtError(f"{what}: {words}")
    if torch.cuda.device_count() == 0:
        why = "PyTorch sees none here" if torch.version.cuda else "this PyTorch is built without CUDA"
        raise QvggtError(f"{what}: an engine runs on an NVIDIA GPU, and {why}; {ELSEWHERE}")
    return check_device(device)


def open_gpu(what: object, device: str = "cuda") -> Gpu:
    """The GPU behind "cuda" or "cuda:N" with a stream of its own; QvggtError as `check_gpu`."""
    parsed = check_gpu(what, device)
    parsed = torch.device("cuda", parsed.index or 0)
    with torch.cuda.device(parsed):
        major, minor = torch.cuda.get_device_capability(parsed)
        return Gpu(parsed, torch.cuda.Stream(parsed), torch.cuda.get_device_name(parsed), f"{major}.{minor}")
