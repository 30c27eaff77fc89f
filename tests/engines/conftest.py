from __future__ import annotations

from pathlib import Path

import pytest
from small_network import SIZE, small_model

from qvggt.calib.rtn import quantize_rtn_
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.model import VGGT
from qvggt.quant.checkpoint import Provenance, save_calibrated
from qvggt.quant.scheme import Scheme, parse_scheme

SOURCE = {"name": "small", "sha256": "0" * 64}


@pytest.fixture(scope="session")
def scheme() -> Scheme:
    return parse_scheme("w8a8")


@pytest.fixture(scope="session")
def quantized(scheme: Scheme) -> VGGT:
    model = small_model()
    quantize_rtn_(model, scheme)
    return model


@pytest.fixture(scope="session")
def checkpoint(quantized: VGGT, scheme: Scheme, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "w8a8"
    save_calibrated(path, quantized, scheme, Provenance())
    return path


@pytest.fixture(scope="session")
def onnx_path(quantized: VGGT, scheme: Scheme, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    export_onnx(quantized, scheme, ExportConfig(SIZE, SIZE), path, SOURCE)
    return path
