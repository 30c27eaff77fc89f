from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import ModelProto
from rtx import TARGET, Build, BuildAll, Builder, Lint, Verdict

from qvggt.export.lint import Finding, lint_model


@pytest.fixture(scope="session")
def rtx_builder() -> Iterator[Builder]:
    with Builder() as builder:
        yield builder


@pytest.fixture
def build_all(request: pytest.FixtureRequest, tmp_path: Path) -> BuildAll:
    """models -> what TensorRT-RTX makes of each; where it is missing the test is skipped at its first use."""

    def run(models: list[ModelProto], target: str = TARGET) -> list[Verdict]:
        pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' in the clone")
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        for index, model in enumerate(models):
            (folder / f"{index}.onnx").write_bytes(model.SerializeToString())
        builder: Builder = request.getfixturevalue("rtx_builder")
        return builder.build([folder / f"{index}.onnx" for index in range(len(models))], target)

    return run


@pytest.fixture
def build(build_all: BuildAll) -> Build:
    return lambda model: build_all([model])[0]


@pytest.fixture(scope="session")
def rules() -> Lint:
    """model -> ids of the rules it breaks."""

    def run(model: ModelProto) -> set[str]:
        found: list[Finding] = lint_model(model)
        return {finding.rule for finding in found}

    return run
