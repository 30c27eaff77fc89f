"""TensorRT and TensorRT-RTX engine runner. Buffers and the stream are PyTorch's; nothing here was run on a GPU yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qvggt.engines.compatibility import not_portable, same_version, why_not
from qvggt.engines.cuda import Gpu, open_gpu
from qvggt.engines.manifest import Manifest, check_engine, manifest_path
from qvggt.engines.network_file import INPUT
from qvggt.engines.registry import RunnerOptions
from qvggt.engines.runner import Array, ModelFile, Runner, versions
from qvggt.engines.tensorrt_module import import_tensorrt, logger_of
from qvggt.errors import QvggtError
from qvggt.predictions import OUTPUTS
from qvggt.quant.scheme import Scheme


@dataclass
class Buffers:
    """Tensors on the GPU for one frame count, and the CUDA graph captured over them, if any."""

    tensors: dict[str, torch.Tensor]
    graph: Any = None


class EngineRunner(Runner):
    """Opens an engine file that has its manifest beside it, and matches it.

    device: "cuda" or "cuda:N". cuda_graph: record the launches once per frame count and replay them, which helps where
    launching takes longer than computing (few frames, small images); buffers of every frame count are then kept.
    QvggtError for an engine without a matching manifest, of another TensorRT version or GPU generation, or a machine
    without the package or a GPU.
    """

    held = ("context", "engine", "runtime", "_buffers")
    device = "cuda"
    frame_range: tuple[int, int]

    def __init__(self, path: str | Path, device: str = "cuda", *, cuda_graph: bool = False) -> None:
        self.path = Path(path)
        self.manifest = check_engine(self.path)
        trt = import_tensorrt(self.manifest.backend)
        _check_version(self.path, self.manifest, trt)
        self.gpu = open_gpu(device)
        self.device = str(self.gpu.device)
        _check_capability(self.path, self.manifest, self.gpu)
        self.cuda_graph = cuda_graph
        self.runtime: Any = trt.Runtime(logger_of(trt))  # the engine must not outlive it
        self.engine: Any = self.runtime.deserialize_cuda_engine(self.path.read_bytes())
        if self.engine is None:
            words = f"{trt.__name__} {trt.__version__} refuses it: {logger_of(trt).last}"
            raise QvggtError(f"{self.path}: {words}; build again")
        self.outputs, self.types = _interface(trt, self.engine, self.path)
        low, high = _shape_range(self.engine)
        self.frame_range = (low[1], high[1])
        self.frames = self.frame_range[0] if self.frame_range[0] == self.frame_range[1] else None
        self.size = (high[3], high[4]) if low[3:] == high[3:] else None
        self.context: Any = _context(trt, self.engine, cuda_graph)
        if self.context is None:
            raise QvggtError(f"{self.path}: no execution context: {logger_of(trt).last}; free some GPU memory")
        self.files = tuple(ModelFile.of(file) for file in (self.path, manifest_path(self.path)))
        self.scheme = None if self.manifest.scheme is None else Scheme.from_dict(dict(self.manifest.scheme))
        self.label = f"{self.manifest.backend} {self.scheme_label} {self.path.name}"
        self._trt = trt
        self._buffers: dict[int, Buffers] = {}

    @property
    def scheme_label(self) -> str:
        return str(self.manifest.report.get("format") or super().scheme_label)

    def _run(self, images: Array) -> dict[str, Array]:
        low, high = self.frame_range
        if not low <= len(images) <= high:
            raise QvggtError(
                f"{self.label}: was built for {low} to {high} frames, got {len(images)}; build it with "
                f"--frames {min(low, len(images))}:{len(images)}:{max(high, len(images))}"
            )
        batch = torch.from_numpy(np.ascontiguousarray(images)[None])
        with torch.inference_mode():
            buffers = self._buffers_for(batch.shape)
            buffers.tensors[INPUT].copy_(batch)  # waits, and converts where the engine takes half precision
            self.compute(len(images))
            self.gpu.wait()
            return {name: buffers.tensors[name].float().cpu().numpy() for name in self.outputs}

    def compute(self, frames: int) -> None:
        """Launch the network on what the buffers of this frame count hold (after a first call), without waiting."""
        buffers = self._buffers[frames]
        if buffers.graph is not None:
            with _stream(self.gpu):
                buffers.graph.replay()
            return
        self._launch(buffers)
        if self.cuda_graph and not _captures(self._trt):  # after a first launch, in which memory is set aside
            self.gpu.wait()
            buffers.graph = self._capture(buffers)

    def _launch(self, buffers: Buffers) -> None:
        self.context.set_input_shape(INPUT, tuple(buffers.tensors[INPUT].shape))
        for name, tensor in buffers.tensors.items():
            self.context.set_tensor_address(name, tensor.data_ptr())
        if not self.context.execute_async_v3(self.gpu.stream.cuda_stream):
            raise QvggtError(f"{self.path}: the engine failed: {logger_of(self._trt).last}")

    def _capture(self, buffers: Buffers) -> Any:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.gpu.stream):
            self._launch(buffers)
        return graph

    def _buffers_for(self, shape: Sequence[int]) -> Buffers:
        """Buffers for images [1, S, 3, H, W]; without CUDA graphs those of the last frame count only."""
        frames = shape[1]
        known = self._buffers.get(frames)
        if known is not None and known.tensors[INPUT].shape == tuple(shape):
            return known
        if not self.cuda_graph:
            self._buffers.clear()
        if not self.context.set_input_shape(INPUT, tuple(shape)):
            raise QvggtError(f"{self.path}: takes no images {list(shape)}: {logger_of(self._trt).last}")
        shapes = {INPUT: tuple(shape)}
        shapes |= {name: tuple(self.context.get_tensor_shape(name)) for name in self.outputs}
        tensors = {name: torch.empty(s, dtype=self.types[name], device=self.gpu.device) for name, s in shapes.items()}
        self._buffers[frames] = Buffers(tensors)
        return self._buffers[frames]

    def describe(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "kind": manifest.backend,
            **self._facts(),
            "float_type": manifest.precision,
            "providers": [self.device],
            "device": f"{self.gpu.name} (compute capability {self.gpu.capability})",
            "frame_range": list(self.frame_range),
            "cuda_graph": self.cuda_graph,
            "onnx_sha256": manifest.onnx[0].sha256,
            "metadata": dict(manifest.metadata),
            "versions": versions(**{manifest.backend: self._trt.__version__, "torch": torch.__version__}),
        }


def open_engine(source: str | Path, options: RunnerOptions) -> EngineRunner:
    """As `open_runner` has it."""
    if options.device == "cpu":
        raise QvggtError(
            f"{source}: an engine runs on an NVIDIA GPU only, got device cpu; give cuda, or run its ONNX file"
        )
    return EngineRunner(source, options.device or "cuda", cuda_graph=options.cuda_graph)


def _stream(gpu: Gpu) -> Any:
    return torch.cuda.stream(gpu.stream)


def _check_version(path: Path, manifest: Manifest, trt: Any) -> None:
    """An engine runs on the version that built it, as far as both are known; the runtime checks the rest by itself."""
    if not same_version(manifest.backend_version, trt.__version__):
        raise QvggtError(
            f"{path}: made by {manifest.backend} {manifest.backend_version}, this is {trt.__version__}; build again"
        )


def _check_capability(path: Path, manifest: Manifest, gpu: Gpu) -> None:
    built = manifest.compute_capabilities
    reason = why_not(manifest.backend, capability=gpu.capability)
    if reason is None and manifest.backend == "rtx" and not built:
        reason = not_portable(gpu.capability)
    if reason is not None:
        raise QvggtError(f"{path}: a {manifest.backend} engine, not for {gpu.name}: {reason}")
    if built and gpu.capability not in built:
        raise QvggtError(
            f"{path}: was built for compute capability {', '.join(built)}, {gpu.name} has {gpu.capability}; build it "
            f"with --cc {gpu.capability}"
        )


def _shape_range(engine: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Smallest and largest shape of the images; an engine without symbolic dimensions has no profile to ask."""
    fixed = tuple(engine.get_tensor_shape(INPUT))
    if -1 not in fixed:
        return fixed, fixed
    low, _, high = engine.get_tensor_profile_shape(INPUT, 0)
    return tuple(low), tuple(high)


def _captures(trt: Any) -> bool:
    """Whether the package records CUDA graphs itself; TensorRT-RTX does, as it replaces kernels while it runs."""
    return hasattr(trt, "CudaGraphStrategy")


def _context(trt: Any, engine: Any, cuda_graph: bool) -> Any:
    if not (cuda_graph and _captures(trt)):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)


def _interface(trt: Any, engine: Any, path: Path) -> tuple[tuple[str, ...], dict[str, torch.dtype]]:
    """(known outputs in the order of OUTPUTS, tensor -> type); QvggtError for another interface."""
    types = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16, trt.DataType.BF16: torch.bfloat16}
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    if inputs != [INPUT] or not outputs or not set(outputs) <= set(OUTPUTS):
        raise QvggtError(
            f"{path}: has inputs {', '.join(inputs) or 'none'} and outputs {', '.join(outputs) or 'none'}, expected "
            f"{INPUT} and some of {', '.join(OUTPUTS)}; build it from a file of qvggt export"
        )
    kinds = {name: engine.get_tensor_dtype(name) for name in names}
    for name, kind in kinds.items():
        if kind not in types:
            raise QvggtError(f"{path}: {name} has type {kind}, expected fp32, fp16 or bf16; build from another file")
    return tuple(name for name in OUTPUTS if name in outputs), {name: types[kind] for name, kind in kinds.items()}
