"""The exported file against tensors computed by the original implementation (fp32)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_weights import fill
from safetensors import safe_open

from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.quant.scheme import parse_scheme

GOLDEN = Path(__file__).parents[1] / "data" / "vggt_reference_small.safetensors"


@pytest.mark.parametrize("case", ["square", "wide", "tall", "single"])
def test_equals_the_original(case: str, open_onnx: Any, tmp_path: Path) -> None:
    golden = safe_open(GOLDEN, "pt")
    config = json.loads(golden.metadata()["config"])
    model = fill(VGGT(VGGTConfig.from_dict(dict(config, camera_num_heads=4, heads=("camera", "point", "depth")))))
    images = golden.get_tensor(f"{case}/images")
    export_onnx(model, parse_scheme("fp32"), ExportConfig(*images.shape[-2:]), tmp_path / "m.onnx")
    got = open_onnx(tmp_path / "m.onnx")(images)
    assert len(got) == 5
    for name, value in got.items():
        # the tolerance of the PyTorch model against the same tensors
        expected = golden.get_tensor(f"{case}/{name}")
        torch.testing.assert_close(torch.from_numpy(value), expected, atol=2e-5, rtol=0)
