"""What the GPU suite and tools/gpu_proof.py compare: fake-quant references, their ONNX files, engines built from them,
test images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_scale import CAMERA
from cpu_candidates import RANDOM_1B, load_float
from held_out import CALIBRATION_SEED, SIZE, drawn
from numpy.typing import NDArray
from torch import Tensor

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.calib.rtn import quantize_rtn_
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.device import placed
from qvggt.engines.build_config import BuildConfig
from qvggt.engines.builder import build_engine, read_source
from qvggt.engines.manifest import manifest_path
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.parity import OutputParity, check_outputs
from qvggt.export.precision import Precision
from qvggt.files import read_object
from qvggt.jobs.source import is_calibrated
from qvggt.models.family import family_of
from qvggt.models.network import Network
from qvggt.quant.checkpoint import DESCRIPTION, load_calibrated
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.target import Target

FRAMES = (1, 2, 4)
LARGE = 100_000_000  # parameters, from which a CPU is too slow for references
NARROW = tuple((path, "w4a16") for path in CAMERA)  # overrides of VGGT-1B in 4 bits


@dataclass(frozen=True)
class Agreement:
    """The parity gate's judgement of every output at every frame count; truthy when all pass."""

    outputs: tuple[OutputParity, ...]

    def __bool__(self) -> bool:
        return bool(self.outputs) and all(self.outputs)

    def sqnr_db(self) -> dict[str, float]:
        return {f"{p.name} {p.frames}": p.sqnr_db for p in self.outputs}

    def failures(self) -> list[str]:
        return [f"{p.name} {p.frames}: {p.sqnr_db:.1f} < {p.needed_db:.1f} dB" for p in self.outputs if not p]


@dataclass(frozen=True)
class Form:
    """One way to run the network: bits, activation mode, float type of what is not quantized."""

    bits: str
    activation: str = "dynamic"
    precision: str = "fp16"

    def __str__(self) -> str:
        return f"{self.bits}-{self.activation}-{self.precision}"


def forms_of(source: str, forms: Sequence[Form]) -> list[Form]:
    """Those a model can be judged in: all of them for float weights, which are rounded to nearest; a calibrated
    checkpoint has one scheme, and of that the float types among `forms`."""
    if not is_calibrated(source):
        return list(forms)
    own = Scheme.from_dict(read_object(Path(source) / DESCRIPTION, "a calibrated checkpoint").get("scheme"))
    return [Form(own.bits, own.activation, float_type) for float_type in dict.fromkeys(f.precision for f in forms)]


@dataclass(frozen=True)
class Exported:
    """A fake-quant reference on the CPU in fp32, and the file made of it."""

    model: Network
    scheme: Scheme
    form: Form
    path: Path


class Lab:
    """Makes each file once; everything lies in `folder`.

    source: a float checkpoint, whose weights are rounded to nearest, a calibrated one, which is taken as it is, or
    "random-1b". load: makes the network of float weights. frames: least, usual and most of engines.
    """

    def __init__(
        self,
        source: str,
        folder: Path,
        load: Callable[[str], Network] = load_float,
        frames: tuple[int, int, int] = FRAMES,
    ) -> None:
        self.source, self.folder, self.load, self.frames = source, folder, load, frames
        self.files: dict[tuple[Form, Target], Exported] = {}
        self.engines: dict[tuple[Form, str], Path] = {}
        self.calibrated = load_calibrated(source) if is_calibrated(source) else None
        self.fresh: Network | None = load(source) if self.calibrated is None else None  # of the first form
        config = (self.fresh or self.calibrated.model).config  # type: ignore[union-attr]
        self.side = config.img_size // config.patch_size * config.patch_size

    def network(self, form: Form) -> tuple[Network, Scheme]:
        """In that form, on the CPU."""
        if self.calibrated is not None:
            return self.calibrated.model, self.calibrated.scheme
        model, self.fresh = self.fresh or self.load(self.source), None
        scheme = parse_scheme(form.bits, form.activation)
        if self.source == RANDOM_1B and form.bits.startswith("w4"):
            scheme = Scheme(form.bits, scheme.activation, scheme.parts, NARROW)
        if scheme.quantizes:
            seen = [self.images(2, 19_000_000)] if form.activation == "static" else None
            quantize_rtn_(model, scheme, seen, progress=False)
        return model, scheme

    def images(self, frames: int, seed: int = 20_000_000) -> Tensor:
        """float32 [frames, 3, side, side] of a generated scene that no model was trained on."""
        config = SceneConfig(height=self.side, width=self.side, frames=max(frames, 2))
        return drawn(config, frames, seed)[0].contiguous()

    def exported(self, form: Form, target: Target = Target.TENSORRT) -> Exported:
        if (form, target) not in self.files:
            model, scheme = self.network(form)
            there = family_of(model).exportable.items()
            outputs = tuple(word for word, head in there if head.name in model.config.heads)
            path = self.folder / f"{form}-{target.value}.onnx"
            size = ExportConfig(self.side, self.side, outputs, target=target, precision=Precision(form.precision))
            export_onnx(model, scheme, size, path)
            if is_large(model):
                self.files.clear()  # one such network at a time
            self.files[form, target] = Exported(model, scheme, form, path)
        return self.files[form, target]

    def engine(self, form: Form, backend: str, capabilities: tuple[str, ...] = ()) -> Path:
        """Built unless it lies there already, by whichever process; capabilities: of TensorRT-RTX, where no GPU says
        which."""
        path = self.folder / f"{form}-{backend}.engine"
        if (form, backend) not in self.engines:
            if not manifest_path(path).exists():
                config = BuildConfig(backend, frames=self.frames, compute_capabilities=capabilities)
                source = read_source(self.exported(form, target_of(backend)).path)
                result = build_engine(source, path, config, shown=False)
                assert not result.report.failed, result.report.summary
            self.engines[form, backend] = path
        return path


def target_of(backend: str) -> Target:
    """What a file is exported for that this builder gets."""
    return Target.of("tensorrt", backend)


def agreement(
    run: Callable[..., dict[str, NDArray[np.float32]]],
    exported: Exported,
    lab: Lab,
    counts: Sequence[int] | None = None,
    scenes: int = 2,
) -> Agreement:
    """`run(images) -> {output: array}` against the reference, by the parity gate's own measure and floors.

    The reference is computed on the CPU, that of a large network on a GPU where there is one.
    """
    seeds = range(20_000_000, 20_000_000 + scenes)
    batches = [lab.images(frames, seed) for frames in counts or lab.frames for seed in seeds]
    with computing_on(exported.model, device_for(exported.model)) as reference:
        precision = Precision(exported.form.precision)
        return Agreement(check_outputs(run, reference, batches, exported.scheme, precision=precision))


def tiny_calibrated(device: str, bits: str, scenes: int = 4) -> tuple[Network, float]:
    """The tiny model calibrated on a device with one epoch, then on the CPU; and the seconds it took."""
    network, scheme = load_float("tiny"), parse_scheme(bits)
    scene, where = SceneConfig(height=SIZE, width=SIZE, family="random"), torch.device(device)
    images = [drawn(scene, FRAMES[-1], CALIBRATION_SEED + i)[0] for i in range(scenes)]
    start = time.perf_counter()
    with placed(network, where):
        calibrate_(network, scheme, find_recipe("qvggt").replace(epochs=1), images, progress=False)
    return network, time.perf_counter() - start


def is_large(model: Network) -> bool:
    return sum(t.numel() for t in model.state_dict().values()) > LARGE


def device_for(model: Network) -> str:
    """Where its reference is computed."""
    return "cuda" if torch.cuda.is_available() and is_large(model) else "cpu"


@contextmanager
def computing_on(model: Network, device: str) -> Iterator[Network]:
    """Inside, the network takes images from the CPU and gives outputs there, and computes on `device` between."""
    hooks = [
        model.register_forward_pre_hook(lambda _model, inputs: tuple(x.to(device) for x in inputs)),
        model.register_forward_hook(lambda _model, _inputs, out: {name: x.cpu() for name, x in out.items()}),
    ]
    try:
        yield model.to(device)
    finally:
        for hook in hooks:
            hook.remove()
        model.cpu()
