from __future__ import annotations

from pathlib import Path

import pytest
from fake_tensorrt import SPEC, FakeTensorRT, fake_gpu, write
from small_network import SIZE, small_model

from qvggt.calib.rtn import quantize_rtn_
from qvggt.engines import engine_runner
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.models.vggt.network import VGGT
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


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """Engines run on a fake TensorRT-RTX and a fake GPU."""
    module = FakeTensorRT()
    monkeypatch.setattr(engine_runner, "import_tensorrt", lambda backend: module)
    monkeypatch.setattr(engine_runner, "open_gpu", lambda device: fake_gpu())
    return module


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write(tmp_path / "m.engine", SPEC)
