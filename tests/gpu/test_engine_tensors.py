"""Engines on the GPU: tensors of the card in and out, scratch memory of the shape, compiled kernels that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gpu_lab import Form, Lab
from measuring import Results

from qvggt.engines.engine_runner import EngineRunner

pytestmark = pytest.mark.gpu


def test_tensors_of_the_card(lab: Lab, backend: str) -> None:
    """The same numbers without the way over the host, call after call on one stream, and only what was asked for."""
    with EngineRunner(lab.engine(Form("w8a8"), backend)) as runner:
        for frames in (2, 4, 2):
            images = lab.images(frames)
            expected = runner.run_named(images.numpy())
            found = runner.run_device(images.to(runner.device))
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name].float().cpu().numpy(), value, err_msg=name)
            assert list(runner.run_device(images.to(runner.device), ["depth"])) == ["depth"]


def test_scratch_memory_fits_the_shape(lab: Lab, backend: str, results: Results) -> None:
    with EngineRunner(lab.engine(Form("w8a8"), backend)) as runner:
        runner(lab.images(1).numpy())
        facts = runner.describe()
        results.add(f"{backend} scratch", {name: facts[name] for name in ("scratch_bytes", "largest_scratch_bytes")})
        assert 0 < facts["scratch_bytes"] <= facts["largest_scratch_bytes"] + (1 << 20)


def test_kernels_are_kept(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="compiles at run time; TensorRT does not")
    monkeypatch.setenv("QVGGT_CACHE", str(tmp_path))
    path = lab.engine(Form("w8a8"), "rtx")
    for _ in range(2):
        with EngineRunner(path) as runner:
            assert runner.notes == (), "what the first run kept fits the second"
            runner(lab.images(2).numpy())
        assert len(list(tmp_path.rglob("*.kernels"))) == 1
