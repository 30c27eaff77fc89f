from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import pytest
import torch
from small_network import small_batches, small_model

from qvggt.calib import rtn
from qvggt.calib.ranges import observe_ranges
from qvggt.calib.rtn import quantize_rtn_, weight_sqnr
from qvggt.errors import QvggtError
from qvggt.models.vggt.network import VGGT
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import quantized_linears, scheme_linears
from qvggt.quant.scheme import Scheme, parse_scheme

FC2 = "aggregator.frame_blocks.0.mlp.fc2"


@pytest.fixture(scope="module")
def batches() -> list[torch.Tensor]:
    return small_batches(2, 1)


def network() -> VGGT:
    """12 linears of the default parts."""
    return small_model(aa_depth=1, dpt_layers=(0, 0, 0, 0), heads=("camera",))


def paths(scheme: Scheme) -> list[str]:
    return [path for path, _, _ in scheme_linears(network(), scheme)]


def test_sqnr_in_db() -> None:
    weight = torch.tensor([[3.0, 4.0]])
    assert weight_sqnr(weight, weight + torch.tensor([[0.3, 0.4]])) == pytest.approx(20, abs=1e-5)
    assert weight_sqnr(weight, torch.zeros_like(weight)) == 0
    assert weight_sqnr(weight, weight) == math.inf
    assert weight_sqnr(0 * weight, 0 * weight) == math.inf


@pytest.mark.parametrize("bits", ["w8a8", "w6a6", "w4a4", "w4a16"])
def test_the_table_is_the_error_of_every_weight(bits: str) -> None:
    model, scheme = network(), parse_scheme(bits)
    weights = {path: linear.weight.detach().clone() for path, linear, _ in scheme_linears(model, scheme)}
    table = quantize_rtn_(model, scheme, progress=False)
    assert list(table) == paths(scheme) == [path for path, _ in quantized_linears(model)]
    for path, module in quantized_linears(model):
        weight = weights[path].double()
        noise = (weight - module.weight_dequantized().double()).square().sum()
        expected = 10 * math.log10(float(weight.square().sum() / noise))
        assert table[path] == {"weight_sqnr_db": pytest.approx(expected, abs=0.002)}


def test_one_float_weight_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lets a 1B model be rounded in little more than its own memory."""
    model, scheme = network(), parse_scheme("w4a4")
    weights = [weakref.ref(linear.weight) for _, linear, _ in scheme_linears(model, scheme)]
    alive = []

    def count(*pair: torch.Tensor) -> float:
        alive.append(sum(weight() is not None for weight in weights))
        return weight_sqnr(*pair)

    monkeypatch.setattr(rtn, "weight_sqnr", count)
    quantize_rtn_(model, scheme, progress=False)
    assert alive == [*range(len(weights), 0, -1)]


def test_each_bit_is_worth_six_db() -> None:
    means = []
    for bits in ("w4a4", "w6a6", "w8a8"):
        table = quantize_rtn_(network(), parse_scheme(bits), progress=False)
        means.append(sum(row["weight_sqnr_db"] for row in table.values()) / len(table))
    assert means[1] - means[0] == pytest.approx(12.6, abs=0.5)  # 20 log10(31 / 7) is 12.9
    assert means[2] - means[1] == pytest.approx(12.2, abs=0.3)


def test_weights_are_the_nearest_on_the_absmax_grid() -> None:
    model, scheme = network(), parse_scheme("w4a4")
    weight = model.get_submodule(FC2).weight.detach().clone()  # type: ignore[union-attr, operator]
    quantize_rtn_(model, scheme, progress=False)
    module = model.get_submodule(FC2)
    assert isinstance(module, QuantLinear)
    step = weight.abs().amax(1, keepdim=True) / 7
    grid = step[..., None] * torch.arange(-7, 8)  # [out, 1, 15]
    nearest = (grid - weight[..., None]).abs().amin(-1)
    assert torch.allclose((module.weight_dequantized() - weight).abs(), nearest, atol=1e-7)


def test_static_ranges_are_those_observed(batches: list[torch.Tensor]) -> None:
    scheme = parse_scheme("w8a8", "static")
    expected = observe_ranges(network(), batches, paths(scheme), progress=False)
    model = network()
    table = quantize_rtn_(model, scheme, iter(batches), total=2, progress=False)
    for path, module in quantized_linears(model):
        assert module.act_amax == torch.tensor(expected[path])
        assert table[path]["input_amax"] == pytest.approx(expected[path], abs=1e-6)
    other = network()
    quantize_rtn_(other, scheme, batches[1:], progress=False)
    assert any(
        a.act_amax != b.act_amax
        for (_, a), (_, b) in zip(quantized_linears(model), quantized_linears(other), strict=True)
    )


def test_only_static_linears_have_a_range(batches: list[torch.Tensor]) -> None:
    scheme = Scheme("w4a16", "static", overrides=(("*.fc2", "w8a8"),))
    table = quantize_rtn_(network(), scheme, batches, progress=False)
    assert {path for path, row in table.items() if "input_amax" in row} == {p for p in table if p.endswith("fc2")}


@pytest.mark.parametrize("scheme", [parse_scheme("w8a8"), parse_scheme("w4a16", "static"), parse_scheme("fp32")])
def test_no_images_are_read_where_no_range_is_needed(scheme: Scheme) -> None:
    def read() -> Iterator[torch.Tensor]:
        raise AssertionError("read")
        yield

    table = quantize_rtn_(network(), scheme, read(), progress=False)
    assert len(table) == (0 if scheme.bits == "fp32" else 12)


@pytest.mark.parametrize("batches", [None, []])
def test_static_without_images(batches: list[torch.Tensor] | None) -> None:
    model = network()
    with pytest.raises(QvggtError, match=r"patch_embed\.blocks\.0\.attn\.qkv: ") as caught:
        quantize_rtn_(model, parse_scheme("w8a8", "static"), batches, progress=False)
    assert "\n" not in str(caught.value)
    assert list(quantized_linears(model)) == []


@pytest.mark.parametrize("act", ["dynamic", "static"])
def test_deterministic(act: str, batches: list[torch.Tensor]) -> None:
    states = []
    for _ in range(2):
        model = network()
        quantize_rtn_(model, parse_scheme("w4a4", act), batches, progress=False)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize(("bits", "most"), [("w8a8", 0.03), ("w4a16", 0.2), ("w4a4", 0.7)])
def test_the_network_stays_close(bits: str, most: float, batches: list[torch.Tensor]) -> None:
    """Loose bounds, for random weights: a wrong range or scale ends above 1."""
    expected = network()(batches[0])["pose_enc"]
    for act in ("dynamic", "static"):
        model = network()
        quantize_rtn_(model, parse_scheme(bits, act), batches, progress=False)
        error = float((model(batches[0])["pose_enc"] - expected).norm() / expected.norm())
        assert 0 < error < most
