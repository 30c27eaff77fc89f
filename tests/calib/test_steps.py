"""What linears spend at run time is decided by what they see, and what folds away changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_network import small_batches, small_model

from qvggt.calib.calibrate import calibrate_, report_table
from qvggt.calib.recipe import Recipe, find_recipe
from qvggt.calib.reconstruct import calibrate_block
from qvggt.calib.steps import NEED_DB, Steps, choose_steps
from qvggt.calib.stream import Stream
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.models.block import Block
from qvggt.models.family import LINEARS, Stage, family_of
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import quantized_linears, settled
from qvggt.quant.scheme import parse_scheme

pytestmark = pytest.mark.usefixtures("one_thread")

OURS = find_recipe("qvggt").replace(smooth=True, rounding="rtn")
Site = tuple[Block, Stage, Stream]


@pytest.fixture
def site() -> Site:
    """The first frame block of a network and its inputs."""
    model = small_model(seed=1)
    stream, family = Stream.start(model, small_batches(2, 3)), family_of(model)
    stage = next(s for s in family.stages(model.config) if s.view == "frame" and "frame_blocks" in s.path)
    stream.enter(model, stage)
    block = model.get_submodule(stage.path)
    assert isinstance(block, Block)
    return block, stage, stream


def formats(name: str) -> dict[str, LinearFormat]:
    format = find_format(name)
    assert isinstance(format, LinearFormat)
    return dict.fromkeys(LINEARS, format)


def chosen(site: Site, name: str, recipe: Recipe = OURS) -> dict[str, Steps]:
    block, stage, stream = site
    return choose_steps(block, stage, formats(name), stream, recipe, seed=0)[0]


def test_eight_bits_spend_nothing_and_four_bits_everything(site: Site) -> None:
    for name, steps in chosen(site, "w8a8-dynamic").items():
        assert (steps.center, steps.rotation) == (False, False)
        assert steps.constant_range == (name in ("attn.qkv", "mlp.fc1"))  # which a norm bounds
        assert steps.db is not None
        assert steps.db >= NEED_DB
    for name, steps in chosen(site, "w4a4-dynamic").items():
        assert (steps.constant_range, steps.center, steps.scale) == (False, True, True)
        assert steps.rotation == (name == "mlp.fc2")
        assert steps.db is not None
        assert steps.db < NEED_DB


def test_a_type_of_tokens_that_dwarfs_the_others_gets_ranges_of_tokens(site: Site) -> None:
    block, stage, stream = site
    before = chosen(site, "w8a8-dynamic")
    with torch.no_grad():
        # a channel that only camera and register tokens have, so large that it takes the grid from the patches
        for index in range(len(stream.tokens)):
            tokens = stream.tokens[index].clone()
            tokens[:, : stage.layout.special, 3] = 1e4
            tokens[:, stage.layout.special :, 3] = tokens[:, stage.layout.special :].mean(-1)  # 0 after the norm
            stream.tokens.put(index, tokens)
        block.norm1.weight[3] *= 1000
    after = chosen(site, "w8a8-dynamic", OURS.replace(smooth=False))
    assert before["attn.qkv"].constant_range
    assert not after["attn.qkv"].constant_range


def test_what_folds_changes_nothing(site: Site) -> None:
    """Constants and scales in norms and value rows: the finished block is the one that was measured before."""
    block, stage, stream = site
    with torch.no_grad():  # patches far from zero in every input
        block.norm1.bias += 1.5
        block.norm2.bias -= 2.0
        block.attn.qkv.bias += 1.0
    for name, recipe in (
        ("w8a8-dynamic", OURS),
        ("w8a8-static", OURS.replace(center="types")),
        ("w4a4-dynamic", OURS.replace(online="none")),
    ):
        final, report = calibrate_block(block, stage, formats(name), stream, stream, recipe, 0)
        assert report.final == pytest.approx(report.start, rel=1e-3), name
        proj = final.attn.proj
        assert isinstance(proj, QuantLinear)
        if proj.transform is not None and proj.transform.center is not None:
            assert not proj.transform.center[-1].any()  # the patches' constant left it


def test_constant_ranges_are_part_of_the_scheme(tmp_path: Path) -> None:
    model, batches = small_model(seed=1), small_batches(2, 3)
    scheme = parse_scheme("w8a8")
    reports = calibrate_(model, scheme, OURS, batches, progress=False)
    own = settled(model, scheme)
    static = [path for path, linear in quantized_linears(model) if linear.format.mode == "static"]
    assert static
    assert set(own.constant_ranges) == set(static)
    assert settled(model, own) == own
    assert own.label == "w8a8-dynamic"
    assert own.needs_ranges
    table = report_table(reports, model)
    assert all(table[path]["constant_range"] == 1 for path in static)
    assert all((row["cost"] == 0) == (row["constant_range"] == 1) for row in table.values() if "cost" in row)
    save_calibrated(tmp_path / "c", model, scheme, Provenance(layers=table))
    loaded = load_calibrated(tmp_path / "c")
    assert loaded.scheme == own
    with torch.no_grad():
        assert torch.equal(loaded.model(batches[0])["depth"], model(batches[0])["depth"])


def test_additions() -> None:
    format = formats("w8a8-dynamic")["mlp.fc2"]
    assert Steps(constant_range=True).additions("attn.qkv", format, 64, 192) == 0
    assert Steps().additions("attn.qkv", format, 64, 192) == (2 * 64 + 192) / (64 * 192)
    assert Steps(scale=True, center=True).additions("attn.qkv", format, 64, 192) == (2 * 64 + 192) / (64 * 192)
    whole = Steps(scale=True, center=True, rotation=True).additions("mlp.fc2", format, 4096, 1024)
    assert whole == pytest.approx(2 * 64 / 1024 + (4 * 4096 + 1024) / (4096 * 1024))
