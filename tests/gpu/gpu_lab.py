"""What the GPU suite compares: fake-quant references, their ONNX files, engines built from them, test images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvggt.calib.rtn import quantize_rtn_
from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.engines.build_config import BuildConfig
from qvggt.engines.builder import build_engine, read_source
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.parity import OutputParity, check_outputs
from qvggt.export.precision import Precision
from qvggt.hub.loading import load_model
from qvggt.models.vggt.network import VGGT
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.target import Target

FRAMES = (1, 2, 4)


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


@dataclass(frozen=True)
class Exported:
    """A fake-quant reference on the CPU in fp32, and the file made of it."""

    model: VGGT
    scheme: Scheme
    form: Form
    path: Path


class Lab:
    """Makes each file once; everything lies in `folder`."""

    def __init__(self, source: str, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.files: dict[tuple[Form, Target], Exported] = {}
        self.engines: dict[tuple[Form, str], Path] = {}
        config = load_model(source, heads=("camera",)).config
        self.side = config.img_size // config.patch_size * config.patch_size

    def images(self, frames: int, seed: int = 20_000_000) -> Tensor:
        """float32 [frames, 3, side, side] of a generated scene that no model was trained on."""
        config = SceneConfig(height=self.side, width=self.side, frames=max(frames, 2))
        views = render(sample_scene(config, seed), config)
        return torch.from_numpy(views.images[:frames]).permute(0, 3, 1, 2).float().contiguous() / 255

    def exported(self, form: Form, target: Target = Target.TENSORRT) -> Exported:
        if (form, target) not in self.files:
            model = load_model(self.source, heads=("camera", "point", "depth"))
            scheme = parse_scheme(form.bits, form.activation)
            quantize_rtn_(model, scheme, [self.images(2, 19_000_000)] if form.activation == "static" else None)
            path = self.folder / f"{form}-{target.value}.onnx"
            size = ExportConfig(self.side, self.side, target=target, precision=Precision(form.precision))
            export_onnx(model, scheme, size, path)
            self.files[form, target] = Exported(model, scheme, form, path)
        return self.files[form, target]

    def engine(self, form: Form, backend: str) -> Path:
        if (form, backend) not in self.engines:
            path = self.folder / f"{form}-{backend}.engine"
            config = BuildConfig(backend, frames=(min(FRAMES), FRAMES[1], max(FRAMES)))
            result = build_engine(read_source(self.exported(form).path), path, config)
            assert result.report.passed, result.report.summary
            self.engines[form, backend] = path
        return self.engines[form, backend]


def agreement(run: Callable[..., dict[str, NDArray[np.float32]]], exported: Exported, lab: Lab) -> Agreement:
    """`run(images) -> {output: array}` against the reference, by the parity gate's own measure and floors."""
    batches = [lab.images(frames, seed) for frames in FRAMES for seed in (20_000_000, 20_000_001)]
    precision = Precision(exported.form.precision)
    return Agreement(check_outputs(run, exported.model, batches, exported.scheme, precision=precision))
