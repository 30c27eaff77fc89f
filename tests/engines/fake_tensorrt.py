"""A TensorRT module of plain Python: an engine is JSON, and its network adds up the pixels of every frame.

It keeps the contract of the real one, as documented for TensorRT 10, 11 and TensorRT-RTX 1.7, on the memory of
`fake_cuda`: shapes before sizes before addresses, scratch memory of at least the size it told, live memory at every
launch and replay, no call off the device, contexts gone before their engine and an engine before its runtime.
"""

from __future__ import annotations

import ctypes
import enum
import json
import weakref

import numpy as np

from qvggt.engines.manifest import FileFact, Manifest, manifest_path
from qvggt.quant.scheme import parse_scheme

VERSION = "9.9.9"
SPEC = {"outputs": ["depth", "pose_enc"], "frames": [1, 4], "size": [14, 28]}
TRAILING = {"pose_enc": (9,), "depth": ("H", "W", 1), "tokens_0": (3, "H", "W")}
SCRATCH = 3 << 20  # bytes a frame


class DataType(enum.Enum):
    FLOAT = np.float32
    HALF = np.float16
    BF16 = "bf16"
    INT8 = np.int8


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class SeekPosition(enum.IntEnum):
    SET = 0
    CUR = 1
    END = 2


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        INFO = 2


class IStreamReaderV2:
    pass


class Context:
    def __init__(self, engine, strategy, config):
        self.cuda, self.engine, self.strategy, self.config = engine.cuda, weakref.ref(engine), strategy, config
        self.log, self.spec = engine.log, engine.spec
        self.shapes, self.addresses, self.launches, self.memory = {}, {}, [], None
        self.active_optimization_profile, self.sized, self.recorded = 0, False, None

    def __del__(self):
        if self.engine() is None and self.cuda.stack:  # one that was dropped and not closed goes in any order
            self.cuda.faults.append("a context outlived its engine")
        self.cuda.gone.append(bool(self.cuda.stack))
        if self.config is not None and self.config.cache is not None and self.shapes:  # compiled in the background
            self.config.cache.kernels.add(f"{self.shapes} late")

    def check(self, what):
        self.cuda.check_current(what)

    def refuse(self, words, answer=False):
        self.log.log(ILogger.Severity.ERROR, words)
        return answer

    def set_optimization_profile_async(self, index, stream):
        self.check("set_optimization_profile_async")
        if self.spec.get("no_profile"):
            return self.refuse("no such\nprofile")
        assert stream == self.cuda.stack[-1].cuda_stream
        assert 0 <= index < self.engine().num_optimization_profiles
        self.active_optimization_profile, self.shapes, self.sized = index, {}, False
        return True

    def set_input_shape(self, name, shape):
        self.check("set_input_shape")
        low, _, high = self.engine().profile(self.active_optimization_profile)
        if name in self.spec.get("extra", {}):
            low, high = ((1, frames, *self.spec["extra"][name]) for frames in (low[1], high[1]))
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self.refuse(f"shape {shape}\nis out of the profile")
        self.shapes[name], self.sized = tuple(shape), False
        return True

    def infer_shapes(self):
        self.check("infer_shapes")
        if self.spec.get("no_shapes"):
            raise RuntimeError("shape inference\nfailed")
        return [name for name in self.engine().inputs if name not in self.shapes]

    def get_tensor_shape(self, name):
        self.check("get_tensor_shape")
        if name in self.shapes:
            return self.shapes[name]
        _, frames, _, height, width = self.shapes[self.engine().inputs[0]]
        if self.spec.get("unknown_shape"):
            return (1, frames, -1)
        sides = {"H": height, "W": width}
        return (1, frames, *(sides.get(side, side) for side in TRAILING[name]))

    def needed(self):
        return self.spec.get("scratch", SCRATCH) * self.shapes[self.engine().inputs[0]][1]

    def update_device_memory_size_for_shapes(self):
        self.check("update_device_memory_size_for_shapes")
        if self.strategy is not ExecutionContextAllocationStrategy.USER_MANAGED or self.infer_shapes():
            return self.refuse("not a user-managed context, or shapes are missing", 0)
        if self.spec.get("no_size"):
            return self.refuse("no size", 0)
        self.sized = True
        return self.needed()

    def set_device_memory(self, address, size):
        """None whatever happens: the real one tells its log alone."""
        self.check("set_device_memory")
        assert self.sized, "memory was set before its size was asked for these shapes"
        if address % 256 or size < self.needed() or self.spec.get("no_memory"):
            self.refuse(f"{size} bytes at {address} will not do")
            return
        self.memory = (address, size)

    def set_tensor_address(self, name, address):
        self.check("set_tensor_address")
        if self.spec.get("no_address"):
            return self.refuse("bad address")
        assert name in self.engine().names
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        self.check("execute_async_v3")
        assert stream == self.cuda.stack[-1].cuda_stream, "not on the current stream"
        if self.spec.get("fails"):
            self.log.log(ILogger.Severity.INFO, "launching")
            return self.refuse(self.spec["fails"])
        assert set(self.addresses) == set(self.engine().names), "an address is missing"
        assert self.sized, "the shapes changed after the memory was set"
        launch = self.launch(dict(self.shapes), dict(self.addresses), self.memory, self.needed())
        if self.cuda.capturing is not None:
            if self.spec.get("no_capture"):
                raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")
            self.cuda.capturing.launches.append(launch)
            self.cuda.capturing.contexts.append(weakref.ref(self))
            return True
        self.launches.append(stream)
        if self.config is not None and self.config.cuda_graph_strategy is not None:  # RTX records by itself
            self.recorded = launch if self.recorded is None else self.recorded
            launch = self.recorded
        if self.config is not None and self.config.cache is not None:
            self.config.cache.kernels.add(str(self.shapes))
        launch()
        return True

    def launch(self, shapes, addresses, memory, needed):
        """Everything a launch, or the replay of one, reads and writes."""
        types = {name: np.dtype(self.engine().get_tensor_dtype(name).value) for name in self.engine().names}
        found = shapes | {name: self.get_tensor_shape(name) for name in self.spec["outputs"]}
        cuda, outputs = self.cuda, self.spec["outputs"]  # not the context itself, which keeps what it recorded

        def view(name):
            size = int(np.prod(found[name])) * types[name].itemsize
            assert cuda.alive(addresses[name], size), f"{name}: a launch on freed memory"
            data = (ctypes.c_char * size).from_address(addresses[name])
            return np.frombuffer(data, types[name]).reshape(found[name])

        def run():
            cuda.check_current("a launch")
            assert memory is not None
            assert memory[1] >= needed, "too little scratch memory"
            assert cuda.alive(*memory), "a launch on freed scratch memory"
            cuda.events.append("launch")
            sums = sum(
                view(name).astype(np.float32).sum(tuple(i for i in range(len(shape)) if i != 1))
                for name, shape in shapes.items()
            )
            ctypes.memset(memory[0], 0xAB, needed)  # it is scribbled on: nothing else may lie there
            for name in outputs:
                shape = found[name]
                view(name)[:] = np.broadcast_to(sums.reshape(1, -1, *[1] * (len(shape) - 2)), shape)

        return run


class RuntimeCache:
    MAGIC = b"fits"

    def __init__(self):
        self.kernels = set()

    def deserialize(self, blob):
        if not bytes(blob).startswith(self.MAGIC):
            return False
        self.kernels = set(json.loads(bytes(blob)[len(self.MAGIC) :]))
        return True

    def serialize(self):
        return memoryview(self.MAGIC + json.dumps(sorted(self.kernels)).encode())


class RuntimeConfig:
    cuda_graph_strategy = None
    strategy = ExecutionContextAllocationStrategy.STATIC
    cache = None

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return RuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class Engine:
    def __init__(self, spec, log, cuda, runtime):
        self.spec, self.log, self.cuda, self.runtime = spec, log, cuda, weakref.ref(runtime)
        self.inputs = [spec.get("input", "images"), *spec.get("extra", {})]
        self.names = [*self.inputs, *spec["outputs"]]
        self.num_io_tensors = len(self.names)
        self.profiles = spec.get("profiles") or [[spec["frames"][0], spec["frames"][0], spec["frames"][1]]]
        self.num_optimization_profiles = len(self.profiles)
        self.device_memory_size_v2 = spec.get("scratch", SCRATCH) * max(high for _, _, high in self.profiles)
        self.streamable_weights_size = spec.get("streamable", 0)
        self.budget, self.contexts = self.streamable_weights_size, weakref.WeakSet()

    def __del__(self):
        if self.runtime() is None and self.cuda.stack:
            self.cuda.faults.append("an engine outlived its runtime")

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType[self.spec.get("types", {}).get(name, "FLOAT")]

    def get_tensor_shape(self, name):
        low, high = min(p[0] for p in self.profiles), max(p[2] for p in self.profiles)
        frames = low if low == high else -1
        trailing = self.spec.get("extra", {}).get(name)
        return (1, frames, *(trailing or (3, *self.spec["size"])))

    def get_tensor_profile_shape(self, name, index):
        assert -1 in self.get_tensor_shape(name), "no profile without symbolic dimensions"
        trailing = self.spec.get("extra", {}).get(name)
        return [(1, shape[1], *(trailing or shape[2:])) for shape in self.profile(index)]

    def profile(self, index):
        return [(1, frames, 3, *self.spec["size"]) for frames in self.profiles[index]]

    @property
    def weight_streaming_budget_v2(self):
        return self.budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget):
        """The binding drops the answer of the native call."""
        if self.contexts:
            self.log.log(ILogger.Severity.ERROR, "there are contexts")
        elif not self.spec.get("keeps_budget"):
            self.budget = budget

    def create_execution_context(self, asked=ExecutionContextAllocationStrategy.STATIC):
        self.cuda.check_current("create_execution_context")
        if self.spec.get("no_context"):
            if self.spec["no_context"] is not True:
                self.log.log(ILogger.Severity.ERROR, self.spec["no_context"])
            return None
        config = asked if isinstance(asked, RuntimeConfig) else None
        context = Context(self, asked if config is None else config.strategy, config)
        self.contexts.add(context)
        return context

    def create_runtime_config(self):
        return RuntimeConfig()


class FakeTensorRT:
    """Stands for the module; `CudaGraphStrategy` only where asked, as TensorRT-RTX has it and TensorRT has not."""

    ILogger, DataType, TensorIOMode, SeekPosition = ILogger, DataType, TensorIOMode, SeekPosition
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    __version__ = VERSION

    def __init__(self, cuda, name="tensorrt_rtx", captures=True, streams=True):
        self.__name__, self.cuda = name, cuda
        self.loads = []
        if captures:
            self.CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
        if streams:
            self.IStreamReaderV2 = IStreamReaderV2

    def Runtime(self, logger):
        self.cuda.check_current("Runtime")
        return Runtime(self, logger)


class Runtime:
    def __init__(self, module, logger):
        self.module, self.logger, self.cuda = module, logger, module.cuda
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, data):
        self.cuda.check_current("deserialize_cuda_engine")
        if isinstance(data, IStreamReaderV2):
            assert data.seek(0, SeekPosition.SET)
            pieces = [data.read(8, 0)]
            while pieces[-1]:
                pieces.append(data.read(1 << 40, 0))
            self.module.loads.append("stream")
            data = b"".join(pieces)
        else:
            self.module.loads.append("bytes")
        try:
            spec = json.loads(data)
        except ValueError:
            self.logger.log(ILogger.Severity.ERROR, "magic tag\ndoes not match")
            return None
        if spec.get("host_code") and not self.engine_host_code_allowed:
            self.logger.log(ILogger.Severity.ERROR, "host code is not allowed")
            return None
        return Engine(spec, self.logger, self.cuda, self)


def write(path, spec=SPEC, **changes):
    """An engine file with its manifest."""
    path.write_text(json.dumps(spec) if isinstance(spec, dict) else spec)
    values = {
        "engine": FileFact.of(path),
        "onnx": (FileFact("m.onnx", "0" * 64, 1),),
        "backend": "rtx",
        "backend_version": VERSION,
        "precision": "fp16",
        "profile": {"images": ((1, 1, 3, 14, 28), (1, 2, 3, 14, 28), (1, 4, 3, 14, 28))},
        "compute_capabilities": ("8.9", "12.0"),
        "scheme": parse_scheme("w8a8").to_dict(),
        "metadata": {"qvggt.size": "14x28"},
        "report": {},
        "created": "2026-11-24T12:00:00Z",
    }
    manifest_path(path).write_text(Manifest(**{**values, **changes}).to_json())
    return path
