"""Calibration on another device than the CPU, with torch's meta device as the GPU: nothing mixes, and memory holds."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from bench_calibration_memory import peaks, unsplit
from meta_device import META, MetaDevice, MixedDevices
from small_network import small_batches, small_images, small_model

from qvggt.calib import reconstruct, stream
from qvggt.calib.block_journal import BlockJournal
from qvggt.calib.calibrate import calibrate_
from qvggt.calib.frame_features import sequence_features
from qvggt.calib.gptq import InputMoments, gptq_codes
from qvggt.calib.learnable import LearnableLinear
from qvggt.calib.recipe import find_recipe
from qvggt.calib.sensitivity import network_outputs
from qvggt.calib.stream import CPU
from qvggt.device import device_of
from qvggt.formats.grid import Grid
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.quant.scheme import parse_scheme


def test_mixing_is_an_error_and_moving_is_not() -> None:
    here, there = torch.ones(3), torch.ones(3, device=META)
    with MetaDevice() as device:
        with pytest.raises(MixedDevices, match="add"):
            here + there
        with pytest.raises(MixedDevices, match="index"):
            here[torch.zeros(2, dtype=torch.int64, device=META)]
        assert (there * torch.tensor(2.0)).device == META
        assert (here.to(META) + there).cpu().device == here.device
        assert device.held == 0
        there.exp()
        assert device.peak == 24  # the sum of two, both gone
    with MetaDevice() as device:
        kept = torch.ones(5, device=META)
        assert (device.held, device.peak) == (20, 20)
        del kept
        assert (device.held, device.peak) == (0, 20)


def nearest(weight: torch.Tensor, scale: torch.Tensor, grid: Grid, moments: InputMoments) -> torch.Tensor:
    """In the place of GPTQ, whose thousands of columns take minutes on the meta device."""
    assert moments.matrix.device == weight.device
    return grid.round(weight, scale)


@pytest.mark.parametrize(
    ("bits", "act", "recipe", "parts", "step"),
    [
        ("w4a4", "static", "qvggt", ("aggregator", "camera", "dpt", "rest"), 63),
        pytest.param("w4a4", "dynamic", "qvggt", ("dino", "aggregator"), 8192, marks=pytest.mark.slow),
        pytest.param("w4a16b32", "dynamic", "qvggt", ("aggregator",), 63, marks=pytest.mark.slow),
        pytest.param("w4a4", "dynamic", "quantvggt", ("aggregator",), 63, marks=pytest.mark.slow),
        pytest.param("w8a8", "static", "quarot", ("aggregator",), 8192, marks=pytest.mark.slow),
    ],
)
def test_nothing_mixes(bits: str, act: str, recipe: str, parts: tuple[str, ...], step: int, tmp_path: Path) -> None:
    """A whole calibration; with a step of 63 tokens, three frames of 21, sequences are taken apart."""
    model = small_model(seed=1, aa_depth=1, dpt_layers=(0, 0, 0, 0)).to(META)
    steps = find_recipe(recipe).replace(epochs=1, search_clips=False)  # type: ignore[arg-type]
    store = BlockJournal(tmp_path / "store", {})
    with (
        MetaDevice(model),
        patch.object(stream, "STEP_TOKENS", step),
        patch.object(reconstruct, "gptq_codes", nearest),
    ):
        calibrate_(model, parse_scheme(bits, act, parts), steps, small_batches(4), journal=store, progress=False)
    assert {t.device for t in model.state_dict().values()} == {META}


def test_searched_clips_mix_nothing() -> None:
    with MetaDevice():
        format = find_format("w4a4")
        assert isinstance(format, LinearFormat)
        learnable = LearnableLinear(torch.nn.Linear(6, 3, device=META), format)
        learnable.search_weight_clips()
        learnable.search_act_clip(torch.ones(9, 6, device=META))
        assert learnable.clip_low.device == META


def test_rounding_mixes_nothing() -> None:
    format = find_format("w4a4")
    assert isinstance(format, LinearFormat)
    with MetaDevice():
        weight, moments = torch.ones(3, 6, device=META), InputMoments(6, META)
        moments.update(torch.ones(2, 9, 6, device=META))
        assert gptq_codes(weight, format.weight.scale(weight), format.weight.grid, moments).device == META


def test_a_finished_block_is_read_to_where_its_float_form_is(tmp_path: Path) -> None:
    store, block = BlockJournal(tmp_path / "store", {}), small_model().aggregator.frame_blocks[0]
    store.save("block", block, reconstruct.BlockReport(3.0, 2.0, 1.0))
    for device in (META, CPU):
        loaded = store.load("block", block.to_empty(device=device), {})
        assert loaded is not None
        assert device_of(loaded[0]) == device


def test_the_passes_around_it_mix_nothing() -> None:
    model = small_model(seed=1).to(META)
    with MetaDevice(model):
        assert sequence_features(model, small_images(3), rounds=2).similarity.shape == (2,)
        assert {t.device.type for t in network_outputs(model, [small_images(2)])[0].values()} == {"cpu"}


@pytest.mark.parametrize("view", [pytest.param("frame", marks=pytest.mark.slow), "global"])
def test_a_step_of_the_large_model_stays_under_4_gb(view: str) -> None:
    """At 20 frames of 518 x 518 (tools/bench_calibration_memory.py has the table); not split, 6.6 GB."""
    recipe = find_recipe("qvggt").replace(epochs=1, rounding="rtn", search_clips=False)
    found = peaks(view, 20, "w4a4-dynamic", recipe)
    assert max(found.values()) < 4e9
    if view == "frame":
        with unsplit():
            assert peaks(view, 20, "w4a4-dynamic", recipe)["learning"] > 6e9
