"""PyTorch on the CPU: the float network and the fake-quant reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvggt.engines.runner import Predictions, Runner
from qvggt.files import file_sha256
from qvggt.model import VGGT
from qvggt.model.hub import find_weights
from qvggt.model.loading import load_model
from qvggt.quant.checkpoint import WEIGHTS, is_calibrated, load_calibrated
from qvggt.quant.model import quantized_linears
from qvggt.quant.scheme import Scheme

HEADS = ("camera", "point", "depth")
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


class TorchRunner(Runner):
    """A VGGT module; with float type fp16 or bf16 the aggregator runs under autocast, the heads stay fp32."""

    def __init__(self, model: VGGT, label: str, float_type: str = "fp32", file: Path | None = None) -> None:
        self.model, self.label, self.float_type, self.file = model, label, float_type, file

    def __call__(self, images: Tensor) -> Predictions:
        self.check(images)
        dtype = AUTOCAST.get(self.float_type)
        with torch.inference_mode(), torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            outputs = self.model(images[None])
        return Predictions.from_outputs({name: value.float().numpy() for name, value in outputs.items()})

    def describe(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "kind": "torch",
            "label": self.label,
            "float_type": self.float_type,
            "quantized_linears": sum(1 for _ in quantized_linears(self.model)),
            "versions": {"torch": torch.__version__},
        }
        if self.file is not None:
            facts |= {"file": str(self.file), "sha256": file_sha256(self.file), "bytes": self.file.stat().st_size}
        return facts


def open_model(
    source: str, float_type: str = "fp32", revision: str | None = None, offline: bool = False
) -> TorchRunner:
    """A runner for "tiny", a weights file, a Hub id or a calibrated checkpoint directory.

    QvggtError when it cannot be found or loaded.
    """
    name = Path(source).name
    if is_calibrated(source):
        loaded = load_calibrated(source)
        label = f"{name} fake quant {loaded.scheme.label}"
        return TorchRunner(loaded.model, label, loaded.scheme.float_type, Path(source) / WEIGHTS)
    path = find_weights(source, revision=revision, offline=offline)
    model = load_model(source, heads=HEADS, revision=revision, offline=offline)
    return TorchRunner(model, f"{name} {float_type}", Scheme(float_type).float_type, path)
