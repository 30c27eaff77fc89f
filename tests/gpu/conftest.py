"""Everything in this folder runs on an NVIDIA GPU: `make test-gpu`. Figures go into $QVGGT_GPU_RESULTS, by default
outputs/gpu/results.json; $QVGGT_GPU_MODEL names the float checkpoint, by default the tiny model that ships."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gpu_lab import Lab
from measuring import Results

HERE = Path(__file__).parent


def why_not() -> str | None:
    """Reason to skip the whole folder, None where there is a GPU."""
    if torch.cuda.is_available():
        return None
    build = "PyTorch sees none" if torch.version.cuda else "this PyTorch is built without CUDA"
    return f"needs an NVIDIA GPU: {build}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    for item in items:
        if reason is not None and HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def results() -> Results:
    return Results(Path(os.environ.get("QVGGT_GPU_RESULTS", "outputs/gpu/results.json")))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Exports and engines, each made once."""
    return Lab(os.environ.get("QVGGT_GPU_MODEL", "tiny"), tmp_path_factory.mktemp("gpu"))


@pytest.fixture(params=["rtx", "tensorrt"])
def backend(request: pytest.FixtureRequest) -> str:
    """An engine builder that is installed."""
    module = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}[request.param]
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install '.[{'rtx' if request.param == 'rtx' else 'gpu'}]'")
    return str(request.param)


@pytest.fixture
def providers() -> list[str]:
    """What this onnxruntime offers."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())
