"""Everything in this folder runs on an NVIDIA GPU: `make test-gpu`. Figures go into $QVGGT_GPU_RESULTS, by default
outputs/gpu/results.json; $QVGGT_GPU_MODEL names the model, by default the tiny one that ships: a float checkpoint is
rounded to nearest in every form, a calibrated one is judged in its own, in each float type."""

from __future__ import annotations

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gpu_lab import Lab, forms_of
from measuring import Results

HERE = Path(__file__).parent
MODEL = os.environ.get("QVGGT_GPU_MODEL", "tiny")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`form`: of those the test's module or its mark `forms` lists, the ones this model has."""
    if "form" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("forms")
        forms = forms_of(MODEL, mark.args[0] if mark is not None else metafunc.module.FORMS)
        metafunc.parametrize("form", forms, ids=str)


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every reason to skip once, in a line; `pytest -rs` has one for each test."""
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if report.fspath.startswith("tests/gpu")]
    for reason, count in Counter(str(report.longrepr[2]) for report in skipped).items():
        terminalreporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def results() -> Results:
    return Results(Path(os.environ.get("QVGGT_GPU_RESULTS", "outputs/gpu/results.json")))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Exports and engines, each made once."""
    return Lab(MODEL, tmp_path_factory.mktemp("gpu"))


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
