from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from reference_weights import fill
from small_network import CONFIG

from qvggt.export.emulation import session_options
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.quant.scheme import parse_scheme

Outputs = dict[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def alone(one_thread: None, no_grad: None) -> None:
    """Every test here."""


@pytest.fixture(scope="session")
def tiny_config() -> VGGTConfig:
    """Every part of the network once or a few times; head widths differ between the stages, as at 1B."""
    return CONFIG.replace(layer_scale=VGGTConfig.layer_scale)


@pytest.fixture(scope="session")
def tiny_model(tiny_config: VGGTConfig) -> VGGT:
    """Read only: tests that change the model build their own."""
    return fill(VGGT(tiny_config))  # type: ignore[return-value]


@pytest.fixture(scope="session")
def exported(tiny_model: VGGT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny float model at 42 x 70 pixels, weights inside the file."""
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    export_onnx(tiny_model, parse_scheme("fp32"), ExportConfig(42, 70), path)
    return path


@pytest.fixture(scope="session")
def open_onnx() -> Callable[[Path], Callable[[torch.Tensor], Outputs]]:
    """path -> run(images [1, S, 3, H, W]) -> outputs by name, on one CPU thread."""

    def open_file(path: Path) -> Callable[[torch.Tensor], Outputs]:
        options = session_options()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        return lambda images: dict(zip(names, session.run(names, {"images": images.numpy()}), strict=True))

    return open_file


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """Every output within `tolerance` of the largest magnitude of its reference."""

    def check(got: Outputs, expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
        for name, value in got.items():
            truth = expected[name].numpy()
            assert value.shape == truth.shape, name
            assert np.abs(value - truth).max() <= tolerance * np.abs(truth).max(), name

    return check
