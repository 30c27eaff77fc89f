from __future__ import annotations

from pathlib import Path

import pytest
from fake_tensorrt import SPEC, FakeTensorRT, fake_gpu, write

from qvggt.engines import engine_runner
from qvggt.quant.scheme import Scheme, parse_scheme


@pytest.fixture(scope="session")
def scheme() -> Scheme:
    return parse_scheme("w8a8")


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
