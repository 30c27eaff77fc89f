"""Puts tests/ on the import path, for helpers such as `reference_weights`; the small network in every form.

The files are read only: a test that needs them in a folder of its own copies them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small work is fastest on one thread, and equal everywhere

import pytest
import torch
from small_network import SIZE, small_model, small_rounded

from qvggt.models.loading import save_model
from qvggt.models.vggt.network import VGGT
from qvggt.quant.checkpoint import Provenance, save_calibrated
from qvggt.quant.scheme import parse_scheme


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small work, the same sums in the same order on every machine; what a command set is put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def small_float(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `small_model()`."""
    path = tmp_path_factory.mktemp("float") / "float.safetensors"
    save_model(small_model(), path)
    return path


@pytest.fixture(scope="session")
def small_float_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(small_model(), "fp32", tmp_path_factory.mktemp("float_onnx") / "m.onnx")


@pytest.fixture(scope="session")
def small_quantized() -> VGGT:
    """`small_model()` rounded to w8a8."""
    return small_rounded(parse_scheme("w8a8"))


@pytest.fixture(scope="session")
def small_checkpoint(small_quantized: VGGT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_quantized` in the folder w8a8."""
    path = tmp_path_factory.mktemp("checkpoint") / "w8a8"
    save_calibrated(path, small_quantized, parse_scheme("w8a8"), Provenance())
    return path


@pytest.fixture(scope="session")
def small_onnx(small_quantized: VGGT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_quantized` as small.onnx."""
    return exported(small_quantized, "w8a8", tmp_path_factory.mktemp("onnx") / "small.onnx")


@pytest.fixture(scope="session")
def small_pair(small_quantized: VGGT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_quantized` in two files: small.onnx, and small.heads.onnx beside it."""
    return exported(small_quantized, "w8a8", tmp_path_factory.mktemp("pair") / "small.onnx", split_heads=True)


def exported(model: VGGT, bits: str, path: Path, **options: bool) -> Path:
    from qvggt.export.exporter import ExportConfig, export_onnx

    config = ExportConfig(SIZE, SIZE, **options)  # type: ignore[arg-type]
    export_onnx(model, parse_scheme(bits), config, path, {"name": "small", "sha256": "0" * 64})
    return path
