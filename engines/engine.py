"""A TensorRT engine on its GPU: tensors in and out by name. Contexts, scratch memory, graphs and copies are its matter.

Written after the documentation of TensorRT 10, 11 and TensorRT-RTX 1.7 and driven by a stub that keeps their contract
(`tests/engines/fake_tensorrt.py`); not run on a GPU by this project yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvggt.engines.cuda import Gpu, gigabytes, is_out_of_memory
from qvggt.engines.kernel_cache import KernelCache
from qvggt.engines.tensorrt_module import logger_of
from qvggt.errors import QvggtError
from qvggt.files import line

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]  # smallest, best and largest shape of an input
PIECE = 64 << 20  # bytes read of an engine file at a time
GRAIN = 1 << 20  # bytes; scratch memory grows in steps of it


@dataclass(frozen=True)
class EngineOptions:
    """cuda_graph: record the launches once for each shape and replay them. weight_budget: GB of weights that stay on
    the card, for an engine built with weight streaming; None for all. host_code: a version-compatible engine holds a
    runtime of its own, code for the host. kernels: where TensorRT-RTX keeps what it compiles."""

    cuda_graph: bool = False
    weight_budget: float | None = None
    host_code: bool = False
    kernels: KernelCache | None = None


@dataclass
class Launch:
    """What one set of input shapes needs: a context, buffers on the card, pinned ones on the host where asked for."""

    context: Any
    tensors: dict[str, Tensor]
    host: dict[str, Tensor] = field(default_factory=dict)
    graph: Any = None


class Scratch:
    """A block of a card's memory for all contexts that run one after the other, of one engine or of several on one
    stream. A larger one takes its place, and before that its users forget what they made of the smaller one."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.block: Tensor | None = None
        self.users: weakref.WeakSet[Engine] = weakref.WeakSet()

    @property
    def bytes(self) -> int:
        return 0 if self.block is None else self.block.numel()

    def provide(self, needed: int) -> Tensor:
        """The block, of this many bytes at least."""
        if self.block is None or self.block.numel() < needed:
            if self.block is not None:
                for user in self.users:
                    user.forget()
                self.block = None  # before the larger one is asked for
            self.block = self.gpu.empty((-(-max(needed, 1) // GRAIN) * GRAIN,), torch.uint8)
        return self.block


class Engine:
    """A file that was checked, loaded on a GPU; for one thread at a time.

    inputs, outputs: names, in the engine's order. types: name -> type. profiles: of each optimisation profile, input
    name -> (smallest, best, largest shape). notes: a line each on what a user should know. QvggtError where TensorRT
    refuses. scratch: that of another engine on the same stream, to share it.
    """

    def __init__(self, trt: Any, path: Path, gpu: Gpu, options: EngineOptions, scratch: Scratch | None = None) -> None:
        self.path, self.gpu, self.options = path, gpu, options
        self.notes: tuple[str, ...] = ()
        self.scratch = scratch or Scratch(gpu)
        self._trt, self._log = trt, logger_of(trt)
        self._launches: dict[tuple[Shape, ...], Launch] = {}
        self._kernels: Any = None
        self._kept = ""
        self._config: Any = None
        self._engine: Any = None
        with gpu.active(str(path)):
            self._runtime: Any = trt.Runtime(self._log)  # the engine must not outlive it
            if options.host_code:
                self._runtime.engine_host_code_allowed = True
            self._engine = self._loaded()
            self._read_interface()
            self._limit_weights()
            self._configure()
        self.scratch.users.add(self)

    def _loaded(self) -> Any:
        with open(self.path, "rb") as file:
            reader = _reader(self._trt, file)
            data = file.read() if reader is None else reader
            engine = self._runtime_says("refuses it", self._runtime.deserialize_cuda_engine, data)
        if engine is None:
            raise self._refused("refuses it")
        return engine

    def _read_interface(self) -> None:
        trt, engine = self._trt, self._engine
        kinds = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16, trt.DataType.BF16: torch.bfloat16}
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = tuple(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        self.outputs = tuple(name for name in names if name not in self.inputs)
        self.types: dict[str, torch.dtype] = {}
        for name in names:
            kind = engine.get_tensor_dtype(name)
            if kind not in kinds:
                raise QvggtError(
                    f"{self.path}: {name} has type {kind}, expected fp32, fp16 or bf16; build from another file"
                )
            self.types[name] = kinds[kind]
        fixed = {name: tuple(engine.get_tensor_shape(name)) for name in self.inputs}
        # an engine without symbolic dimensions has no profile to ask
        count = engine.num_optimization_profiles if any(-1 in shape for shape in fixed.values()) else 0
        self.profiles: tuple[dict[str, Range], ...] = tuple(
            {name: self._range(name, fixed[name], index) for name in self.inputs} for index in range(count)
        ) or ({name: (shape,) * 3 for name, shape in fixed.items()},)

    def _range(self, name: str, fixed: Shape, index: int) -> Range:
        if -1 not in fixed:
            return fixed, fixed, fixed
        low, best, high = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, index))
        return low, best, high

    def _limit_weights(self) -> None:
        """Before the first context: the budget decides what contexts set aside."""
        if self.options.weight_budget is None:
            return
        most = self._engine.streamable_weights_size
        if most <= 0:
            raise QvggtError(
                f"{self.path}: was built without weight streaming, so all its weights lie on the GPU; leave the budget "
                "out, or build it with --weight-streaming"
            )
        budget = min(int(self.options.weight_budget * 1e9), most)
        self._runtime_says("takes no such budget", setattr, self._engine, "weight_streaming_budget_v2", budget)
        if (found := self._engine.weight_streaming_budget_v2) != budget:
            raise self._refused(f"keeps a budget of {gigabytes(found)}, asked for {gigabytes(budget)}", "take another")

    def _configure(self) -> None:
        """How TensorRT-RTX makes contexts; TensorRT has only the strategy to tell."""
        trt = self._trt
        if not self._records_graphs:
            return
        config = self._runtime_says("gives no runtime configuration", self._engine.create_runtime_config)
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self.options.cuda_graph:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self.options.kernels is not None and hasattr(config, "create_runtime_cache"):
            self._kernels = config.create_runtime_cache()
            self._read_kernels(self.options.kernels)
            self._runtime_says("takes no cache of kernels", config.set_runtime_cache, self._kernels)
        self._config = config

    def _read_kernels(self, cache: KernelCache) -> None:
        """A cache that does not fit is made anew: it saves time, nothing else."""
        try:
            blob = cache.read()
            if blob is not None and not self._kernels.deserialize(blob):
                raise QvggtError(f"{cache.path}: does not fit this card, driver or runtime")
            self._kept = "" if blob is None else hashlib.sha256(blob).hexdigest()
        except QvggtError as error:
            self.notes += (f"kernels kept of earlier runs are not used, and compiled again: {error}",)

    def save_kernels(self) -> None:
        """Keep what TensorRT-RTX compiled so far; `close` does as well. A folder that takes nothing is left alone."""
        if self._kernels is None or self.options.kernels is None:
            return
        with self.gpu.active(str(self.path)):
            kept = self._kernels.serialize()
            blob = b"" if kept is None else bytes(memoryview(kept))
        if not blob or hashlib.sha256(blob).hexdigest() == self._kept:
            return
        try:
            self.options.kernels.write(blob)
            self._kept = hashlib.sha256(blob).hexdigest()
        except QvggtError as error:
            self.notes += (f"compiled kernels are not kept: {error}",)

    @property
    def _records_graphs(self) -> bool:
        """Whether the package records CUDA graphs itself; TensorRT-RTX does, as it replaces kernels while it runs."""
        return hasattr(self._trt, "CudaGraphStrategy")

    def on_device(self, tensors: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Inputs on this GPU -> the chosen outputs, default all, on it; nothing waits for the host.

        The work comes after what the caller's current stream holds, and what the caller gives to that stream
        afterwards comes after the work. The tensors returned are the engine's own: they hold until its next call, which
        itself waits for that stream, or until `close`.
        """
        names = self._chosen(outputs)
        with self.gpu.active(self._asked(tensors)) as caller, torch.no_grad():
            self.gpu.stream.wait_stream(caller)
            launch = self._launch_for({name: tuple(tensors[name].shape) for name in self.inputs})
            for name in self.inputs:
                launch.tensors[name].copy_(tensors[name], non_blocking=True)
                self.gpu.reads(tensors[name])
            self._enqueue(launch)
            caller.wait_stream(self.gpu.stream)
        return {name: launch.tensors[name] for name in names}

    def on_host(self, tensors: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Inputs on the CPU, of any float type -> the chosen outputs, default all, on it as float32.

        Copies, launches and copies back are given to the GPU at once, and waited for once.
        """
        names = self._chosen(outputs)
        with self.gpu.active(self._asked(tensors)), torch.no_grad():
            launch = self._launch_for({name: tuple(tensors[name].shape) for name in self.inputs})
            for name in (*self.inputs, *names):
                if name not in launch.host:
                    launch.host[name] = self.gpu.pinned(launch.tensors[name].shape, self.types[name])
            for name in self.inputs:
                launch.host[name].copy_(tensors[name])  # converts where the engine takes half precision
                launch.tensors[name].copy_(launch.host[name], non_blocking=True)
            self._enqueue(launch)
            for name in names:
                launch.host[name].copy_(launch.tensors[name], non_blocking=True)
            self.gpu.wait()
            return {name: launch.host[name].to(torch.float32, copy=True) for name in names}

    def relaunch(self, shapes: Mapping[str, Shape]) -> None:
        """Launch on what the buffers of these shapes hold after a first call, without copies and without waiting."""
        with self.gpu.active(str(self.path)):
            self._enqueue(self._launch_for(shapes))

    def _chosen(self, outputs: Sequence[str] | None) -> tuple[str, ...]:
        unknown = [name for name in outputs or () if name not in self.outputs]
        if unknown:
            raise QvggtError(f"{self.path}: has no output {unknown[0]}, only {', '.join(self.outputs)}")
        return self.outputs if outputs is None else tuple(outputs)

    def _asked(self, tensors: Mapping[str, Tensor]) -> str:
        """The call, as messages name it."""
        return f"{self.path}: {', '.join(f'{name} {list(tensors[name].shape)}' for name in self.inputs)}"

    def _launch_for(self, shapes: Mapping[str, Shape]) -> Launch:
        """Known shapes as they are; else a new context for a graph, or the one there is with new shapes."""
        key = tuple(tuple(shapes[name]) for name in self.inputs)
        if key in self._launches:
            return self._launches[key]
        profile = self._profile_for(dict(zip(self.inputs, key, strict=True)))
        context = None
        if not self.options.cuda_graph and self._launches:
            self.gpu.wait()  # its shapes and buffers are in use until then
            context = self._launches.popitem()[1].context
        context = context or self._new_context()
        launch = self._prepared(context, profile, dict(zip(self.inputs, key, strict=True)))
        self._launches[key] = launch
        return launch

    def _profile_for(self, shapes: Mapping[str, Shape]) -> int:
        """The profile that holds the shapes; of several the one tuned for the nearest size."""
        holding = {i: _distance(profile, shapes) for i, profile in enumerate(self.profiles) if _holds(profile, shapes)}
        if not holding:
            asked = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            ranges = " or ".join(
                ", ".join(f"{name} {list(low)} to {list(high)}" for name, (low, _, high) in profile.items())
                for profile in self.profiles
            )
            raise QvggtError(f"{self.path}: takes {ranges}, got {asked}; build it with a profile that holds them")
        return min(holding, key=holding.__getitem__)

    def _new_context(self) -> Any:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        asked = strategy if self._config is None else self._config
        context = self._runtime_says("makes no context", self._engine.create_execution_context, asked)
        if context is None:
            raise self._refused("makes no execution context", "free some GPU memory")
        return context

    def _prepared(self, context: Any, profile: int, shapes: Mapping[str, Shape]) -> Launch:
        """Profile, shapes, scratch, buffers: in this order, as each decides on the next."""
        if context.active_optimization_profile != profile:
            switch = context.set_optimization_profile_async
            self._runtime_says(f"refuses profile {profile}", switch, profile, self.gpu.stream.cuda_stream)
        for name, shape in shapes.items():
            self._runtime_says(f"takes no {name} {list(shape)}", context.set_input_shape, name, shape)
        missing = self._runtime_says("cannot tell its shapes", context.infer_shapes)
        found = {name: tuple(context.get_tensor_shape(name)) for name in self.outputs}
        if missing or any(size < 0 for shape in found.values() for size in shape):
            raise self._refused("cannot tell its shapes before it runs", "build it from a file of qvggt export")
        needed = self._runtime_says("cannot tell its scratch memory", context.update_device_memory_size_for_shapes)
        found = {**{name: tuple(shape) for name, shape in shapes.items()}, **found}
        buffers = sum(math.prod(shape) * self.types[name].itemsize for name, shape in found.items())
        try:
            scratch = self.scratch.provide(needed)
            tensors = {name: self.gpu.empty(shape, self.types[name]) for name, shape in found.items()}
        except torch.OutOfMemoryError as error:
            raise self.gpu.out_of_memory(self._where(shapes), needed + buffers) from error
        self._runtime_says("takes no scratch memory", context.set_device_memory, scratch.data_ptr(), scratch.numel())
        for name, tensor in tensors.items():
            self._runtime_says(f"takes no buffer for {name}", context.set_tensor_address, name, tensor.data_ptr())
        return Launch(context, tensors)

    def _enqueue(self, launch: Launch) -> None:
        if launch.graph is not None:
            launch.graph.replay()
            return
        execute = partial(self._runtime_says, "failed", launch.context.execute_async_v3, self.gpu.stream.cuda_stream)
        execute()
        if self.options.cuda_graph and not self._records_graphs:  # after a first launch, which sets memory aside
            self.gpu.wait()
            try:
                launch.graph = self.gpu.captured(execute)
            except (RuntimeError, QvggtError) as error:
                words = line(error) if isinstance(error, RuntimeError) else str(error).removeprefix(f"{self.path}: ")
                raise QvggtError(
                    f"{self.path}: its launches cannot be recorded ({words}); leave the CUDA graph out"
                ) from error

    def _runtime_says(self, no: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call TensorRT; QvggtError, in its words, where the answer is False, or nothing with an error on its log."""
        self._log.clear()
        try:
            answer = function(*arguments)
        except RuntimeError as error:
            self._log.last = self._log.last or line(error)
            raise self._refused(no) from error
        if answer is False or (answer in (None, 0) and self._log.last is not None):
            raise self._refused(no)
        return answer

    def _refused(self, no: str, advice: str = "build again") -> QvggtError:
        words = self._log.last or "no reason given"
        if is_out_of_memory(words):
            return self.gpu.out_of_memory(str(self.path))
        return QvggtError(f"{self.path}: {self._trt.__name__} {self._trt.__version__} {no}: {words}; {advice}")

    def _where(self, shapes: Mapping[str, Shape]) -> str:
        return f"{self.path}: {', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())}"

    def describe(self) -> dict[str, Any]:
        """Sizes for a report: scratch memory in use, and what the largest shapes of the profiles would take."""
        largest = 0 if self._engine is None else self._engine.device_memory_size_v2
        return {
            "cuda_graph": self.options.cuda_graph,
            "profiles": [{name: [list(s) for s in shapes] for name, shapes in p.items()} for p in self.profiles],
            "scratch_bytes": self.scratch.bytes,
            "largest_scratch_bytes": largest,
            "contexts": len(self._launches),
        }

    def forget(self) -> None:
        """Let go of every context, after the graphs recorded from it and when nothing of it runs."""
        self.gpu.wait()
        while self._launches:
            self._launches.popitem()[1].graph = None

    def close(self) -> None:
        """Free everything, users before what they use; calling twice is harmless."""
        if self._runtime is None:
            return
        with contextlib.suppress(QvggtError), self.gpu.active(str(self.path)):  # of a card that failed: said already
            self.forget()
            self.save_kernels()  # contexts are gone: no kernel is still being compiled
        with contextlib.suppress(QvggtError), self.gpu.active(str(self.path)):
            self._launches.clear()
            self.scratch = Scratch(self.gpu)  # of the old one, others may have use
            self._config = self._kernels = None
            self._engine = None
            self._runtime = None


def _reader(trt: Any, file: Any) -> Any:
    """Hands an engine file to TensorRT in pieces, so that it is never in memory as a whole; None where the version has
    no such reader in Python (IStreamReaderV2 came with 10.7)."""
    if not hasattr(trt, "IStreamReaderV2"):
        return None

    class Reader(trt.IStreamReaderV2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamReaderV2.__init__(self)

        def read(self, count: int, stream: int) -> bytes:
            return bytes(file.read(min(count, PIECE)))

        def seek(self, offset: int, where: Any) -> bool:
            file.seek(offset, int(where))  # SET, CUR and END are 0, 1 and 2 there as in Python
            return True

    return Reader()


def _holds(profile: Mapping[str, Range], shapes: Mapping[str, Shape]) -> bool:
    return all(
        len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        for (low, _, high), shape in ((profile[name], shape) for name, shape in shapes.items())
    )


def _distance(profile: Mapping[str, Range], shapes: Mapping[str, Shape]) -> float:
    """How far the shapes are from the best ones, as a sum of ratios."""
    return sum(
        abs(math.log(found / best))
        for name, shape in shapes.items()
        for found, best in zip(shape, profile[name][1], strict=True)
    )
