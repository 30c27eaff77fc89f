"""Units of a network, what they weigh, and how much the outputs suffer from each."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from small_network import small_images, small_model

from qvggt.calib import sensitivity
from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.calib.sensitivity import (
    Trial,
    Trunk,
    find_units,
    measure_units,
    network_outputs,
    output_error,
    quantized_copy,
    quick,
    unit_layers,
    unit_scheme,
    weight_bytes,
)
from qvggt.errors import QvggtError
from qvggt.journal import Journal
from qvggt.models.family import find_family
from qvggt.quant.scheme import parse_scheme

ALL = tuple(part.name for part in find_family().parts if not part.single)


BATCHES = [small_images(2, s) for s in (0, 1)]


def test_units_cover_every_layer_once() -> None:
    model = small_model()
    for by, count in (("part", 4), ("block", 1 + 8 + 1 + 2)):
        units = find_units(model, ALL, by)
        assert len(units) == count
        assert sum(unit_layers(model, unit) for unit in units) == 40 + 60
        whole = weight_bytes(model, parse_scheme("w4a8", "dynamic", ALL))
        assert sum(weight_bytes(model, unit_scheme(unit, "w4a8", "dynamic")) for unit in units) == whole
    with pytest.raises(QvggtError, match="part or block"):
        find_units(model, ALL, "layer")


def test_fewer_bits_do_more_damage_and_cost_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    units = find_units(model, ("aggregator", "dpt"), "part")
    ladder = ("w4a4", "w4a8", "w8a8", "fp32")
    trial = Trial(quick(find_recipe("smoothquant")), BATCHES)
    journal = Journal(tmp_path / "journal.jsonl", {"a": 1}, "search")
    table = measure_units(model, units, ladder, "dynamic", trial, journal=journal, progress=False)
    assert [c.bits for c in table["aggregator"]] == ["w4a4", "w4a8", "w8a8", "fp32"]
    assert [c.bits for c in table["dpt"]] == ["w4a4", "w8a8", "fp32"]  # activations have 8 bits anyway
    for choices in table.values():
        damages, costs, sizes = ([getattr(c, key) for c in choices] for key in ("damage", "cost", "bytes"))
        assert damages == sorted(damages, reverse=True)
        assert damages[-1] == 0
        assert costs == sorted(costs)
        assert sizes == sorted(sizes)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    monkeypatch.setattr(sensitivity, "quantized_copy", lambda *_: pytest.fail("measured twice"))
    again = Journal(tmp_path / "journal.jsonl", {"a": 1}, "search")
    assert measure_units(model, units, ladder, "dynamic", trial, journal=again, progress=False) == table
    with pytest.raises(QvggtError, match=r"search of another configuration \(a was 1, is 2\)"):
        Journal(tmp_path / "journal.jsonl", {"a": 2}, "search")


def test_a_copy_from_the_trunk_is_a_calibration_of_its_own() -> None:
    """Whatever was tried before: folded once, from the stream before its first block, and no further than its last."""
    model, recipe = small_model(seed=1), quick(find_recipe("qvggt"))
    units = find_units(model, ("dino", "aggregator"), "block")
    trunk = Trunk(model, Trial(recipe, BATCHES))
    for number in (3, 5, 2):
        scheme = unit_scheme(units[number], "w4a4", "dynamic")
        network, alone = quantized_copy(trunk, scheme), copy.deepcopy(model)
        assert trunk.stage == number
        calibrate_(alone, scheme, recipe, BATCHES, progress=False)
        for (name, value), other in zip(network.state_dict().items(), alone.state_dict().values(), strict=True):
            assert torch.equal(value, other), name
    shared = {tensor.data_ptr() for tensor in trunk.network.parameters()}
    assert sum(tensor.data_ptr() in shared for tensor in network.parameters()) > len(shared) / 2


def test_the_error_of_outputs() -> None:
    outputs = network_outputs(small_model(), BATCHES)
    assert set(outputs[0]) == {"pose_enc", "depth", "world_points"}
    assert output_error(outputs, outputs) == 0
    scaled = [{name: 1.1 * value for name, value in one.items()} for one in outputs]
    assert output_error(outputs, scaled) == pytest.approx(0.01, rel=1e-4)
