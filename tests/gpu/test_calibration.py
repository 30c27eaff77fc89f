"""Calibration on the GPU: the same bytes for the same seed, and as near to the float model as calibrated on the CPU."""

from __future__ import annotations

import pytest
import torch
from gpu_lab import tiny_calibrated
from held_out import FRAMES, HELD_OUT_SEED, SIZE, drawn
from measuring import Results

from qvggt.data.synthetic.scene import SceneConfig
from qvggt.hub.loading import load
from qvggt.sqnr import sqnr_db

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
CLOSE_DB = 3.0  # rounding and learning amplify float noise: the codes differ, what they lose does not


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w4a16"])
def test_a_gpu_calibrates_as_the_cpu_does_and_again_the_same(bits: str, results: Results) -> None:
    (first, seconds), (again, _), (cpu, cpu_seconds) = (tiny_calibrated(d, bits) for d in (DEVICE, DEVICE, "cpu"))
    assert {tensor.device.type for tensor in first.state_dict().values()} == {"cpu"}
    for (name, one), other in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    images, _ = drawn(SceneConfig(height=SIZE, width=SIZE, family="random"), FRAMES, HELD_OUT_SEED)
    with torch.inference_mode():
        truth, *found = (network(images) for network in (load("tiny").network, first, cpu))
    db = [{name: sqnr_db(truth[name], outputs[name]) for name in truth} for outputs in found]
    figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "sqnr_db": db[0], "cpu_sqnr_db": db[1]}
    results.add(f"calibration {bits}", figures)
    for name in truth:
        assert db[0][name] > db[1][name] - CLOSE_DB, name
