"""What the CPU benchmarks compare: candidates by short names, their files, and processes that run one each."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError

RANDOM_1B = "random-1b"
HEAD_1B = "head-1b"
SLICE_1B = "slice-1b"
SCENES = 32  # generated, that a checkpoint is calibrated on
Array = NDArray[np.float32]
Call = Callable[[Array], dict[str, Array]]


@dataclass(frozen=True)
class Spec:
    """A file to export. `w8a8:static+dpt/fused`: bits, activation mode, more parts, fused attention."""

    text: str
    bits: str
    activation: str = "dynamic"
    parts: tuple[str, ...] = ()
    fused: bool = False

    @property
    def quantized(self) -> bool:
        return self.bits not in ("fp32", "fp16", "bf16")

    @property
    def file(self) -> str:
        return re.sub(r"\W", "_", self.text) + ".onnx"


def parse_spec(text: str) -> Spec:
    """QvggtError for anything else than BITS[:static][+PART...][/fused]."""
    found = re.fullmatch(r"([a-z0-9]+)(:static)?((?:\+[a-z]+)*)(/fused)?", text)
    if found is None:
        raise QvggtError(f"{text!r}: expected BITS[:static][+PART...][/fused], such as w8a8:static+dpt/fused")
    parts = tuple(part for part in found[3].split("+") if part)
    return Spec(text, found[1], "static" if found[2] else "dynamic", parts, bool(found[4]))


@dataclass(frozen=True)
class Candidate:
    """runtime: torch, onnxruntime or openvino. precision: of what is not quantized: fp32 or bf16. onnx: its file,
    None for PyTorch on `model`. folded: a file of blocks whose tokens are in the basis of a folded network."""

    runtime: str
    precision: str
    model: str
    threads: int
    spec: str | None = None
    onnx: str | None = None
    size: tuple[int, int] = (518, 518)
    folded: bool = False

    @property
    def openvino_precision(self) -> str:
        return {"fp32": "f32"}.get(self.precision, self.precision)

    @property
    def label(self) -> str:
        name = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[self.runtime]
        if self.runtime == "torch":
            return f"{name} {self.precision}"
        return f"{name} {self.spec}" + (" bf16" if self.precision == "bf16" else "")


def load_float(name: str) -> Any:
    """A float VGGT by name, without track head; `random-1b` is built with seeded random weights, and so is `head-1b`,
    its depth head behind one block of each sort."""
    import torch

    from qvggt.hub.loading import load_model
    from qvggt.models.vggt.config import VGGT_1B
    from qvggt.models.vggt.network import VGGT

    if name not in (RANDOM_1B, HEAD_1B):
        return load_model(name, heads=("camera", "point", "depth"))
    config = VGGT_1B.replace(heads=("camera", "point", "depth"))
    if name == HEAD_1B:
        config = config.replace(vit_depth=1, aa_depth=1, dpt_layers=(0, 0, 0, 0), heads=("depth",))
    torch.manual_seed(0)
    return VGGT(config).requires_grad_(False).eval()


def write_file(model: str, spec: Spec, height: int, width: int, path: Path) -> int:
    """Export a format, calibrated with the default recipe; bytes.

    A checkpoint: on `SCENES` generated scenes. Random weights of VGGT-1B's size: on one or two, without the steps that
    take hours and change codes only, so that the nodes and their speed are those of a calibrated file.
    """
    from calibrated import calibrated_
    from held_out import CALIBRATION_SEED, FRAMES, drawn

    from qvggt.data.synthetic.scene import SceneConfig
    from qvggt.export.exporter import ExportConfig, export_onnx
    from qvggt.models.family import find_family
    from qvggt.quant.scheme import parse_scheme

    if model == SLICE_1B:
        import block_slice

        scheme = parse_scheme(spec.bits, spec.activation)
        blocks = block_slice.network()
        if spec.quantized:
            blocks, scheme = block_slice.calibrated(scheme, height, width)
        return block_slice.write(blocks, scheme, (height, width), path, fused=spec.fused)
    network = load_float(model)
    scheme = parse_scheme(spec.bits, spec.activation, (*find_family().default_parts, *spec.parts))
    if spec.quantized:
        random = model in (RANDOM_1B, HEAD_1B)
        frames, count = (1, 1) if random else (FRAMES, SCENES)
        scenes = SceneConfig(height=height, width=width, family="random", frames=max(2, frames))
        images = [drawn(scenes, frames, CALIBRATION_SEED + i)[0] for i in range(count)]
        scheme = calibrated_(network, scheme, images, nearest=random)
    outputs = tuple(word for word, head in find_family().exportable.items() if head.name in network.config.heads)
    config = ExportConfig(height, width, outputs, fused_attention=spec.fused)
    return export_onnx(network, scheme, config, path).bytes


def make_input(model: str, frames: int, height: int, width: int) -> Array:
    """Images [S, 3, H, W] in [0, 1] of seeded noise, or what the block slice gets for a generated scene."""
    if model == SLICE_1B:
        import block_slice

        return block_slice.entering(block_slice.pictures(frames, height, width)[0])
    return np.random.default_rng(0).random((frames, 3, height, width), dtype=np.float32)


def open_candidate(candidate: Candidate) -> Call:
    """A function from the input to outputs by name."""
    import torch

    torch.set_num_threads(candidate.threads)
    if candidate.model == SLICE_1B:
        import block_slice

        return block_slice.open_candidate(candidate)
    from qvggt.engines.onnx_runner import OnnxRunner
    from qvggt.engines.openvino_runner import OpenVINORunner
    from qvggt.engines.runner import Runner
    from qvggt.engines.torch_runner import TorchRunner

    runner: Runner
    if candidate.runtime == "torch":
        runner = TorchRunner(load_float(candidate.model), candidate.label, candidate.precision)
    elif candidate.runtime == "openvino":
        runner = OpenVINORunner(str(candidate.onnx), candidate.openvino_precision, candidate.threads)
    else:
        runner = OnnxRunner(str(candidate.onnx), threads=candidate.threads)
    return runner.run_named


@dataclass
class Timing:
    """Single calls: wall-clock and processor seconds. The last call's outputs and the peak memory, bytes."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    outputs: dict[str, Array] = field(default_factory=dict)
    peak_rss: int = 0


class Worker:
    """A candidate in a process of its own, so that peak memory is its own; the first call opens it."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate, self.timing = candidate, Timing()
        self.pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def call(self, images: Array, counts: bool = True) -> None:
        """One forward pass."""
        wall, cpu = self._ask(timed, images)
        if counts:
            self.timing.wall.append(wall)
            self.timing.cpu.append(cpu)

    def finish(self) -> Timing:
        self.timing.outputs, self.timing.peak_rss = self._ask(outcome)
        self.pool.shutdown()
        return self.timing

    def _ask(self, work: Callable[..., Any], *args: Any) -> Any:
        try:
            return self.pool.submit(work, self.candidate, *args).result()
        except BrokenProcessPool as error:
            raise QvggtError(f"{self.candidate.label}: its process ended by itself; out of memory?") from error


@cache
def opened(candidate: Candidate) -> tuple[Call, dict[str, Array]]:
    """In the candidate's process: what computes it, and its last outputs."""
    return open_candidate(candidate), {}


def timed(candidate: Candidate, images: Array) -> tuple[float, float]:
    """Wall-clock and processor seconds of one forward pass."""
    call, outputs = opened(candidate)
    images = in_basis(candidate, images)
    start, cpu = time.perf_counter(), time.process_time()
    found = call(images)
    seconds = time.perf_counter() - start, time.process_time() - cpu
    outputs.update(found)
    return seconds


def outcome(candidate: Candidate) -> tuple[dict[str, Array], int]:
    """The last outputs, and the peak memory of this process."""
    outputs = {name: in_basis(candidate, value, back=True) for name, value in opened(candidate)[1].items()}
    return outputs, peak_rss()


def in_basis(candidate: Candidate, tokens: Array, back: bool = False) -> Array:
    """Tokens of the float blocks in the basis of the candidate's, or back; anything else as it is."""
    if not candidate.folded:
        return tokens
    import block_slice

    basis = block_slice.basis()
    return tokens @ (basis.T if back else basis)


def peak_rss() -> int:
    """Peak resident memory of this process in bytes (getrusage would carry over that of the parent)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: peak memory needs Linux")
