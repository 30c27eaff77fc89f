"""torch.cuda of a machine with two cards, in plain Python: which card and stream are current, what memory there is.

Memory of a card is memory of the host, kept track of: `alive` tells whether an address was given out and not given
back. A step that breaks the contract of CUDA raises AssertionError where it happens, or goes to `faults` where nothing
can be raised (while an object is destroyed).
"""

from __future__ import annotations

import contextlib
import weakref

import torch

from qvggt.engines.cuda import Gpu

ALIGNMENT = 256


class Stream:
    def __init__(self, cuda, device, handle):
        self.cuda, self.device, self.cuda_stream, self.waits, self.after = cuda, device, handle, 0, []

    def synchronize(self):
        assert self.cuda.capturing is None, "a wait breaks the capture of a graph"
        if self.cuda.broken:
            raise RuntimeError(self.cuda.broken)
        self.waits += 1
        self.cuda.events.append("synchronize")

    def wait_stream(self, other):
        self.after.append(other)


class Graph:
    """What was launched while it was recorded; replayed as it was, with the addresses of that time."""

    def __init__(self, cuda):
        self.cuda, self.launches, self.contexts = cuda, [], []

    def __del__(self):
        if self.cuda.stack and any(context() is None for context in self.contexts):
            self.cuda.faults.append("a graph outlived its context")

    def replay(self):
        self.cuda.check_current("replay of a graph")
        self.cuda.events.append("replay")
        for launch in self.launches:
            launch()


class FakeCuda:
    NAMES = ("Fake GPU 0", "Fake GPU 1")

    def __init__(self, capability=(8, 9), total=8 << 30):
        self.capability, self.total = capability, total
        self.current, self.streams, self.stack = 0, [], []
        self.tensors, self.faults, self.events, self.gone = [], [], [], []
        self.capturing, self.broken, self.read = None, None, []
        self.callers = [Stream(self, torch.device("cuda", i), 0) for i in range(2)]

    def install(self, monkeypatch):
        for name in (
            "device_count",
            "device",
            "stream",
            "current_stream",
            "Stream",
            "CUDAGraph",
            "graph",
            "mem_get_info",
            "memory_reserved",
            "memory_allocated",
            "get_device_capability",
            "get_device_name",
        ):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(Gpu, "empty", lambda gpu, shape, dtype: self.empty(gpu, shape, dtype))
        monkeypatch.setattr(Gpu, "holds", lambda gpu, tensor: getattr(tensor, "card", 0) == gpu.device.index)
        monkeypatch.setattr(Gpu, "reads", lambda gpu, tensor: self.read.append(tensor.data_ptr()))
        return self

    # torch.cuda

    def device_count(self):
        return 2

    @contextlib.contextmanager
    def device(self, device):
        before, self.current = self.current, torch.device(device).index
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def stream(self, stream):
        assert stream.device.index == self.current, "a stream of another card"
        self.stack.append(stream)
        try:
            yield
        finally:
            self.stack.pop()

    def current_stream(self, device):
        assert torch.device(device).index == self.current, "asked off the device"
        return self.stack[-1] if self.stack else self.callers[self.current]

    def Stream(self, device):
        self.streams.append(Stream(self, torch.device(device), 77 + len(self.streams)))
        return self.streams[-1]

    def CUDAGraph(self):
        return Graph(self)

    @contextlib.contextmanager
    def graph(self, graph, stream):
        self.check_current("capture of a graph")
        assert stream is self.stack[-1]
        self.capturing = graph
        self.events.append("capture")
        try:
            yield
        finally:
            self.capturing = None

    def mem_get_info(self, device):
        return self.total - self.used(), self.total

    def memory_reserved(self, device):
        return 0

    def memory_allocated(self, device):
        return 0

    def get_device_capability(self, device):
        return self.capability

    def get_device_name(self, device):
        return self.NAMES[torch.device(device).index]

    # what is kept track of

    def check_current(self, what):
        """A card's stream is current: nothing was called outside `Gpu.active`."""
        assert self.stack, f"{what}: called off the stream"
        assert self.stack[-1].device.index == self.current, f"{what}: called off the device"

    def empty(self, gpu, shape, dtype):
        self.check_current("an allocation")
        assert self.capturing is None, "an allocation while a graph is captured"
        size = int(torch.Size(shape).numel()) * dtype.itemsize
        if size > self.total - self.used():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2 lines")
        base = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
        start = -base.data_ptr() % ALIGNMENT
        tensor = base[start : start + size].view(dtype).view(tuple(shape))
        tensor.card = gpu.device.index
        self.tensors.append((weakref.ref(tensor), tensor.data_ptr(), size))
        return tensor

    def living(self):
        return [(start, size) for tensor, start, size in self.tensors if tensor() is not None]

    def used(self):
        return sum(size for _, size in self.living())

    def alive(self, address, size):
        return any(start <= address and address + size <= start + have for start, have in self.living())
