from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import SPEC, FakeTensorRT, write

from qvggt.engines import engine_runner
from qvggt.quant.scheme import Scheme, parse_scheme


@pytest.fixture(scope="session")
def scheme() -> Scheme:
    return parse_scheme("w8a8")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCuda]:
    """A machine with two fake cards; whatever broke the contract of CUDA fails the test at its end."""
    monkeypatch.setenv("QVGGT_CACHE", str(tmp_path / "cache"))
    fake = FakeCuda().install(monkeypatch)
    yield fake
    assert fake.faults == []


@pytest.fixture
def use(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTensorRT]:
    """Engines run on a fake of the arguments' kind from then on."""

    def install(**kind: Any) -> FakeTensorRT:
        module = FakeTensorRT(cuda, **kind)
        monkeypatch.setattr(engine_runner, "import_tensorrt", lambda backend: module)
        return module

    return install


@pytest.fixture
def trt(use: Callable[..., FakeTensorRT]) -> FakeTensorRT:
    """Engines run on a fake TensorRT-RTX and a fake GPU."""
    return use()


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write(tmp_path / "m.engine", SPEC)
