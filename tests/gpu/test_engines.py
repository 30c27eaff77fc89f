"""Engines on the GPU: the numbers of the fake-quant reference, CUDA graphs, latency and memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gpu_lab import FRAMES, Form, Lab, agreement, target_of
from measuring import Results, device_bytes, stream_seconds, summary, wall_seconds

from qvggt.engines.engine_runner import EngineRunner

pytestmark = pytest.mark.gpu
FORMS = [
    Form("fp16"),
    Form("bf16", precision="bf16"),
    Form("w8a8"),
    Form("w8a8", "static"),
    Form("w4a8"),
    Form("w4a4"),
    Form("w4a16"),
]


def test_an_engine_computes_what_the_reference_does(lab: Lab, backend: str, form: Form, results: Results) -> None:
    with EngineRunner(lab.engine(form, backend)) as runner:
        found = agreement(runner.run_named, lab.exported(form, target_of(backend)), lab)
    results.add(f"{backend} {form}", {"sqnr_db": found.sqnr_db()})
    assert found, found.failures()


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["launched", "graph"])
def test_latency_and_memory(lab: Lab, backend: str, form: Form, cuda_graph: bool, results: Results) -> None:
    path = lab.engine(form, backend)
    before = device_bytes()
    with EngineRunner(path, cuda_graph=cuda_graph) as runner:
        for frames in FRAMES:
            images = lab.images(frames).numpy()
            runner(images)
            figures: dict[str, Any] = {
                "call": summary(wall_seconds(partial(runner, images))),
                "compute": summary(stream_seconds(partial(runner.compute, frames), runner.gpu.stream)),
                "device_bytes": device_bytes() - before,
            }
            name = f"{backend} {form}{' graph' if cuda_graph else ''}"
            results.add(name, {f"{frames} frames": figures, "runner": runner.describe()})
            assert 0 < figures["compute"]["p50_s"] <= figures["compute"]["p99_s"]


@pytest.mark.forms([Form("w8a8")])
def test_cuda_graphs_change_no_number(lab: Lab, backend: str, form: Form) -> None:
    path = lab.engine(form, backend)
    with EngineRunner(path) as plain, EngineRunner(path, cuda_graph=True) as recorded:
        for frames in (2, 2, 4, 2):  # recorded, replayed, recorded for another shape, replayed again
            images = lab.images(frames, seed=20_000_000 + frames).numpy()
            expected, found = plain(images).named(), recorded(images).named()
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.forms([Form("w8a8")])
def test_memory_is_freed_on_closing(lab: Lab, backend: str, form: Form) -> None:
    path = lab.engine(form, backend)
    with EngineRunner(path) as runner:
        runner(lab.images(2).numpy())
    torch.cuda.empty_cache()
    first = device_bytes()
    for _ in range(3):
        with EngineRunner(path) as runner:
            runner(lab.images(2).numpy())
    torch.cuda.empty_cache()
    assert device_bytes() - first < 64 << 20
