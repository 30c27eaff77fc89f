"""TensorRT and TensorRT-RTX engine runner: images in, predictions out, from numpy or from tensors on the GPU.

Nothing here was run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from qvggt.engines.compatibility import not_portable, numbers, same_version, why_not
from qvggt.engines.cuda import Gpu, open_gpu
from qvggt.engines.engine import Engine, EngineOptions, Scratch
from qvggt.engines.kernel_cache import kernel_cache
from qvggt.engines.manifest import Manifest, check_engine, manifest_path, read_manifest
from qvggt.engines.network_file import INPUT
from qvggt.engines.pair_engine import EnginePair, find_heads
from qvggt.engines.registry import RunnerOptions
from qvggt.engines.runner import Array, ModelFile, Runner, versions
from qvggt.engines.tensorrt_module import import_tensorrt
from qvggt.errors import QvggtError
from qvggt.predictions import OUTPUTS
from qvggt.quant.scheme import Scheme


def load_engine(
    path: str | Path, device: str = "cuda", *, cuda_graph: bool = False, weight_budget: float | None = None
) -> tuple[Manifest, Engine | EnginePair]:
    """A file that has its manifest beside it and matches it, on the GPU `device`, for whatever inputs it has; a trunk
    with its dense heads.

    cuda_graph: record the launches once for each shape and replay them, which helps where launching takes longer than
    computing (few frames, small images); buffers of every shape are then kept. weight_budget: GB of weights that stay
    on the card of an engine built with --weight-streaming. QvggtError for an engine without a matching manifest, of
    another TensorRT version or GPU generation, or a machine without the package or a GPU.
    """
    path = Path(path)
    manifest = check_engine(path)
    heads = find_heads(path, manifest)
    gpu = open_gpu(path, device)
    trunk = _loaded(path, manifest, gpu, EngineOptions(cuda_graph, weight_budget))
    if heads is None:
        return manifest, trunk
    with ExitStack() as stack:
        stack.callback(trunk.close)
        second = _loaded(*heads, gpu, EngineOptions(cuda_graph), trunk.scratch)
        stack.callback(second.close)
        pair = EnginePair(trunk, second)
        stack.pop_all()
    return manifest, pair


def _loaded(path: Path, manifest: Manifest, gpu: Gpu, options: EngineOptions, scratch: Scratch | None = None) -> Engine:
    trt = import_tensorrt(manifest.backend)
    _check_version(path, manifest, trt)
    _check_capability(path, manifest, gpu)
    kernels = kernel_cache(manifest.engine.sha256, gpu.name, trt.__version__) if manifest.backend == "rtx" else None
    options = replace(options, host_code=_version_compatible(manifest), kernels=kernels)
    return Engine(trt, path, gpu, options, scratch)


class EngineRunner(Runner):
    """Opens an engine as `load_engine`, which has the arguments; for one thread at a time."""

    held = ("engine",)
    device = "cuda"
    frame_range: tuple[int, int]

    def __init__(
        self, path: str | Path, device: str = "cuda", *, cuda_graph: bool = False, weight_budget: float | None = None
    ) -> None:
        self.path = Path(path)
        self.manifest, engine = load_engine(path, device, cuda_graph=cuda_graph, weight_budget=weight_budget)
        self.engine: Engine | EnginePair | None = engine
        self.gpu = engine.gpu
        self.device = str(self.gpu.device)
        try:
            self._read_interface(engine)
        except QvggtError:
            self.close()
            raise
        known = self.manifest.engine  # hashed when the manifest was compared
        self.files = (ModelFile.of(self.path, known.sha256), ModelFile.of(manifest_path(self.path)))
        if isinstance(engine, EnginePair):
            heads = engine.heads.path, manifest_path(engine.heads.path)
            self.files += (ModelFile.of(heads[0], read_manifest(heads[0]).engine.sha256), ModelFile.of(heads[1]))
        self.scheme = None if self.manifest.scheme is None else Scheme.from_dict(dict(self.manifest.scheme))
        self.label = f"{self.manifest.backend} {self.scheme_label} {self.path.name}"
        self.notes = engine.notes

    def _read_interface(self, engine: Engine | EnginePair) -> None:
        if engine.inputs != (INPUT,) or not engine.outputs or not set(engine.outputs) <= set(OUTPUTS):
            raise QvggtError(
                f"{self.path}: has inputs {', '.join(engine.inputs) or 'none'} and outputs "
                f"{', '.join(engine.outputs) or 'none'}, expected {INPUT} and some of {', '.join(OUTPUTS)}; build it "
                "from a file of qvggt export"
            )
        self.outputs = tuple(name for name in OUTPUTS if name in engine.outputs)
        lows, _, highs = zip(*(profile[INPUT] for profile in engine.profiles), strict=True)
        self.frame_range = (min(shape[1] for shape in lows), max(shape[1] for shape in highs))
        self.frames = self.frame_range[0] if self.frame_range[0] == self.frame_range[1] else None
        sizes = {shape[3:] for shape in (*lows, *highs)}
        self.size = (highs[0][3], highs[0][4]) if len(sizes) == 1 else None

    @property
    def scheme_label(self) -> str:
        return str(self.manifest.report.get("format") or super().scheme_label)

    def _run(self, images: Array) -> dict[str, Array]:
        return self._run_chosen(images, self.outputs)

    def _run_chosen(self, images: Array, outputs: Sequence[str]) -> dict[str, Array]:
        assert self.engine is not None
        self._check_frames(len(images))
        found = self.engine.on_host({INPUT: torch.from_numpy(np.ascontiguousarray(images)[None])}, outputs)
        return {name: value.numpy() for name, value in found.items()}

    def run_device(self, images: Any, outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As `run_named`, for images that lie on the engine's GPU: a tensor, or anything with `__dlpack__`.

        images [S, 3, H, W], RGB in [0, 1], of any float type -> the chosen outputs [1, S, ...], default all, in the
        engine's types and on its GPU. Nothing waits for the host: the work comes after what the current stream holds,
        and what is given to that stream afterwards sees the results. They are the engine's own buffers: they hold until
        the runner's next call or `close`; `clone()` what is kept. The values of `images` are not looked at (NaN).
        QvggtError for another device, shape or type, or an output the engine does not compute.
        """
        if self.engine is None:
            raise RuntimeError(f"{self.label}: this runner is closed")
        names = self._chosen(outputs)
        tensor = images if isinstance(images, Tensor) else _from_dlpack(images, self.label)
        if not self.gpu.holds(tensor):
            raise QvggtError(
                f"{self.label}: expected images on {self.gpu.device}, got {tensor.device}; move them there, or give "
                "the runner a numpy array"
            )
        if not tensor.is_floating_point():
            raise QvggtError(f"{self.label}: expected images of a float type in [0, 1], got {tensor.dtype}")
        self._check_shape(tuple(tensor.shape))
        self._check_frames(len(tensor))
        return self.engine.on_device({INPUT: tensor.detach()[None]}, names)

    def _check_frames(self, frames: int) -> None:
        low, high = self.frame_range
        if not low <= frames <= high:
            raise QvggtError(
                f"{self.label}: was built for {low} to {high} frames, got {frames}; build it with "
                f"--frames {min(low, frames)}:{frames}:{max(high, frames)}"
            )

    def compute(self, frames: int) -> None:
        """Launch the network on what the buffers of this frame count hold (after a first call), without waiting."""
        assert self.engine is not None
        assert self.size is not None
        self.engine.relaunch({INPUT: (1, frames, 3, *self.size)})

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
        super().close()

    def describe(self) -> dict[str, Any]:
        manifest = self.manifest
        backend = import_tensorrt(manifest.backend).__version__
        return {
            "kind": manifest.backend,
            **self._facts(),
            "float_type": manifest.precision,
            "providers": [self.device],
            "device": f"{self.gpu.name} (compute capability {self.gpu.capability})",
            "frame_range": list(self.frame_range),
            **({} if self.engine is None else self.engine.describe()),
            "onnx_sha256": manifest.onnx[0].sha256,
            "metadata": dict(manifest.metadata),
            "versions": versions(**{manifest.backend: backend, "torch": torch.__version__}),
        }


def open_engine(source: str | Path, options: RunnerOptions) -> EngineRunner:
    """As `open_runner` has it."""
    return EngineRunner(
        source,
        options.device or "cuda",
        cuda_graph=options.cuda_graph,
        weight_budget=options.weight_streaming_budget,
    )


def _check_version(path: Path, manifest: Manifest, trt: Any) -> None:
    """An engine runs on the version that built it, as far as both are known; the runtime checks the rest by itself."""
    if _version_compatible(manifest) and _follows(trt.__version__, manifest.backend_version):
        return
    if not same_version(manifest.backend_version, trt.__version__):
        raise QvggtError(
            f"{path}: made by {manifest.backend} {manifest.backend_version}, this is {trt.__version__}; build again"
        )


def _version_compatible(manifest: Manifest) -> bool:
    return bool(manifest.options.get("version_compatible"))


def _follows(version: str, built: str) -> bool:
    """Whether an engine that was built for newer versions runs on this one: a later one of that major version or of the
    next, as NVIDIA has it for 8 to 10 and 10 to 11."""
    here, there = numbers(version), numbers(built)
    return bool(there) and here[: len(there)] >= there and here[0] - there[0] <= 1


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


def _from_dlpack(images: Any, label: str) -> Tensor:
    if not hasattr(images, "__dlpack__"):
        kind = type(images).__name__
        raise QvggtError(f"{label}: expected images as a tensor or an object with __dlpack__, got {kind}")
    return from_dlpack(images)
