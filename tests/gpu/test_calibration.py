"""Calibration on the GPU: the same bytes on every run, the errors of the CPU, and a step of VGGT-1B in 4 GB."""

from __future__ import annotations

import pytest
import torch
from bench_calibration_memory import block_1b
from gpu_lab import tiny_calibrated
from held_out import FRAMES, HELD_OUT_SEED, SIZE, drawn
from measuring import Results
from torch import Tensor

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.calib.reconstruct import BlockReport, calibrate_block
from qvggt.calib.stream import Stream, TokenStore
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.device import exact
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.hub.loading import load, load_model
from qvggt.models.family import LINEARS, find_family
from qvggt.models.vggt.config import VGGT_1B
from qvggt.quant.scheme import parse_scheme
from qvggt.sqnr import sqnr_db

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
CLOSE_DB = 3.0  # rounding and learning amplify float noise: the codes differ, what they lose does not


def calibrated(device: torch.device, act: str, bf16: bool) -> tuple[dict[str, Tensor], dict[str, BlockReport]]:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(4, 3, 70, 70, generator=generator) for _ in range(3)]
    model, recipe = load_model("tiny").to(device), find_recipe("qvggt").replace(epochs=1, bf16=bf16)
    with exact(device):
        parts = ("dino", "aggregator", "camera", "dpt", "rest")
        reports = calibrate_(model, parse_scheme("w4a8", act, parts), recipe, batches, progress=False)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, reports


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("act", ["dynamic", "static"])
def test_the_same_bytes_twice_and_the_errors_of_the_cpu(act: str, bf16: bool) -> None:
    (first, reports), (second, _) = (calibrated(GPU, act, bf16) for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    _, expected = calibrated(torch.device("cpu"), act, False)
    for path, report in reports.items():
        assert report.final == pytest.approx(expected[path].final, rel=0.2), path


@pytest.mark.parametrize("frames", [10, 20])
@pytest.mark.parametrize("view", ["frame", "global"])
def test_a_block_of_the_large_model_stays_under_4_gb(view: str, frames: int, results: Results) -> None:
    family, (shape, stage) = find_family(), block_1b(view)
    block = family.block(VGGT_1B, stage)
    block.ls1, block.ls2 = shape.ls1, shape.ls2
    tokens, generator = Stream(TokenStore(1 << 40, pinned=True), [], []), torch.Generator().manual_seed(0)
    size = (frames, family.tokens(VGGT_1B, 518, 518), VGGT_1B.embed_dim)
    tokens.append(torch.randn(size, generator=generator), family.positions(VGGT_1B, 518, 518))
    block.requires_grad_(False).to(GPU)
    format = find_format("w4a4")
    assert isinstance(format, LinearFormat)
    torch.cuda.reset_peak_memory_stats()
    with exact(GPU):
        goals, recipe = tokens.through(stage, block), find_recipe("qvggt").replace(epochs=1)
        calibrate_block(block, stage, dict.fromkeys(LINEARS, format), goals, tokens, recipe, 0)
    peak = torch.cuda.max_memory_allocated()
    results.add(f"calibration of a {view} block", {f"{frames} frames": {"peak_bytes": peak}})
    assert peak < 4e9


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w4a16"])
def test_a_gpu_calibrates_as_the_cpu_does_and_again_the_same(bits: str, results: Results) -> None:
    (first, seconds), (again, _), (cpu, cpu_seconds) = (tiny_calibrated(d, bits) for d in ("cuda", "cuda", "cpu"))
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
