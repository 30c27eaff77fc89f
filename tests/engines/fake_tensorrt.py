"""A TensorRT module of plain Python: an engine is JSON, and its network adds up the pixels of every frame.

Buffers are PyTorch's on the CPU, written through the addresses the runner hands over, so that its shapes, types and
addresses are tested where there is no GPU.
"""

from __future__ import annotations

import ctypes
import enum
import json

import numpy as np
import torch

from qvggt.engines.cuda import Gpu
from qvggt.engines.manifest import FileFact, Manifest, manifest_path
from qvggt.quant.scheme import parse_scheme

VERSION = "9.9.9"
SPEC = {"outputs": ["depth", "pose_enc"], "frames": [1, 4], "size": [14, 28]}
TRAILING = {"pose_enc": (9,), "depth": ("H", "W", 1)}


class DataType(enum.Enum):
    FLOAT = np.float32
    HALF = np.float16
    BF16 = "bf16"
    INT8 = np.int8


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        INFO = 2


class Context:
    def __init__(self, engine, config=None):
        self.engine, self.config = engine, config
        self.shape, self.addresses, self.launches = None, {}, []

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.get_tensor_profile_shape(
            name, 0 if -1 in self.engine.get_tensor_shape(name) else None
        )
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            self.engine.logger.log(ILogger.Severity.ERROR, f"shape {shape}\nis out of the profile")
            return False
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        sides = {"H": self.shape[3], "W": self.shape[4]}
        return (1, self.shape[1], *(sides.get(side, side) for side in TRAILING[name]))

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        self.launches.append(stream)
        if self.engine.spec.get("fails"):
            self.engine.logger.log(ILogger.Severity.INFO, "launching")
            self.engine.logger.log(ILogger.Severity.ERROR, "out of memory")
            return False
        images = self._view("images", self.shape).astype(np.float32)
        for name in self.engine.spec["outputs"]:
            shape = self.get_tensor_shape(name)
            sums = images.sum((0, 2, 3, 4)).reshape(1, -1, *[1] * (len(shape) - 2))
            self._view(name, shape)[:] = np.broadcast_to(sums, shape)
        return True

    def _view(self, name, shape):
        dtype = np.dtype(self.engine.get_tensor_dtype(name).value)
        size = int(np.prod(shape)) * dtype.itemsize
        data = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(data, dtype).reshape(shape)


class RuntimeConfig:
    cuda_graph_strategy = None


class Engine:
    def __init__(self, spec, logger):
        self.spec, self.logger = spec, logger
        self.names = [spec.get("input", "images"), *spec["outputs"]]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == self.names[0] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType[self.spec.get("types", {}).get(name, "FLOAT")]

    def get_tensor_shape(self, name):
        low, high = self.spec["frames"]
        return (1, low if low == high else -1, 3, *self.spec["size"])

    def get_tensor_profile_shape(self, name, index):
        assert -1 in self.get_tensor_shape(name), "no profile without symbolic dimensions"
        return self.profile()

    def profile(self):
        low, high = self.spec["frames"]
        return [(1, frames, 3, *self.spec["size"]) for frames in (low, low, high)]

    def create_execution_context(self, config=None):
        return None if self.spec.get("no_context") else Context(self, config)

    def create_runtime_config(self):
        return RuntimeConfig()


class FakeTensorRT:
    """Stands for the module; `CudaGraphStrategy` only where asked, as TensorRT-RTX has it and TensorRT has not."""

    ILogger, DataType, TensorIOMode = ILogger, DataType, TensorIOMode
    __version__ = VERSION

    def __init__(self, name="tensorrt_rtx", captures=True):
        self.__name__ = name
        if captures:
            self.CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, data):
            try:
                return Engine(json.loads(data), self.logger)
            except ValueError:
                self.logger.log(ILogger.Severity.ERROR, "magic tag\ndoes not match")
                return None


class Stream:
    cuda_stream = 77

    def __init__(self):
        self.waits = 0

    def synchronize(self):
        self.waits += 1


def fake_gpu(capability="8.9"):
    return Gpu(torch.device("cpu"), Stream(), "Fake GPU", capability)


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
