"""Quantized convolutions: the numbers, transposed ones, ranges, the scheme, and a checkpoint of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_network import SIZE, small_batches, small_model
from torch import nn

from qvggt.calib.ranges import observe_convs
from qvggt.calib.rtn import quantize_rtn_
from qvggt.errors import QvggtError
from qvggt.formats.table import find_format
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.conv import ConvRange, ConvShape, QuantConv2d, conv_rows
from qvggt.quant.model import quantize_, quantized_convs, quantized_linears, scheme_convs
from qvggt.quant.scheme import parse_scheme

FORMAT = find_format("w8a8", "static").convolution
assert FORMAT is not None


def seeded(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    return module.requires_grad_(False)


FORMS = [
    nn.Conv2d(5, 7, 3, padding=1),
    nn.Conv2d(5, 7, 3, stride=2, padding=1),
    nn.Conv2d(5, 7, 1),
    nn.Conv2d(5, 7, 3, padding=1, bias=False),
    nn.ConvTranspose2d(5, 7, 4, stride=4),
    nn.ConvTranspose2d(5, 7, 2, stride=2),
]


def test_the_output_of_an_fp8_convolution_is_not_rounded() -> None:
    format = find_format("fp8", "static").convolution
    assert format is not None
    x = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    for conv in FORMS:
        module = QuantConv2d.from_float(seeded(conv), format, ConvRange(4.0, 1.0))
        assert not hasattr(module, "out_amax")
        assert module.act_amax == 4.0 * module.maps.grid.headroom
        truth, got = conv(x), module(x)
        assert 0.005 < (got - truth).norm() / truth.norm() < 0.06
        if module.bias is not None:
            assert torch.equal(module.bias[:: module.shape.shuffle**2], conv.bias)


@pytest.mark.parametrize("conv", FORMS, ids=str)
def test_close_to_the_float_convolution_and_on_the_output_grid(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    seeded(conv)
    x = torch.randn(2, 5, 9, 12, generator=torch.Generator().manual_seed(1))
    y = conv(x)
    module = QuantConv2d.from_float(conv, FORMAT, ConvRange(float(x.abs().max()), float(y.abs().max())))
    got = module(x)
    assert got.shape == y.shape
    assert float((got - y).norm() / y.norm()) < 0.02
    steps = got / (module.out_amax / 127)
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    if module.bias is not None:  # whole multiples of what an integer kernel adds
        units = module.bias / (module.act_amax / 127 * module.weight_scale[:, 0])
        assert torch.allclose(units, units.round(), atol=1e-2)


def test_the_rows_of_a_transposed_convolution_are_the_pixels_of_its_cells() -> None:
    conv = seeded(nn.ConvTranspose2d(3, 4, 4, stride=4))
    x = torch.randn(1, 3, 5, 6, generator=torch.Generator().manual_seed(2))
    rows = F.conv2d(x, conv_rows(conv))
    assert torch.allclose(F.pixel_shuffle(rows, 4) + conv.bias[:, None, None], conv(x), atol=1e-6)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, (1, 3)),
        nn.ConvTranspose2d(4, 4, 4, stride=2),
    ],
    ids=str,
)
def test_other_forms_are_refused(conv: nn.Module) -> None:
    with pytest.raises(TypeError, match="cannot quantize"):
        ConvShape.of(conv)  # type: ignore[arg-type]


def test_activations_have_eight_bits_whatever_the_scheme() -> None:
    for bits, weight in (("w8a8", 8), ("w4a4", 4), ("w6a6", 6), ("w4a8", 4)):
        scheme = parse_scheme(bits, "dynamic", ["dpt"])
        format = scheme.format("depth_head.scratch.layer1_rn")
        assert format is not None
        assert format.name == f"w{weight}a8-static"
        assert (format.weight.grid.storage_bits, format.activation.grid.storage_bits) == (weight, 8)  # type: ignore[union-attr]
        assert scheme.needs_ranges
    for bits in ("w4a16", "fp32"):
        scheme = parse_scheme(bits, "dynamic", ["dpt"])
        assert scheme.format("depth_head.scratch.layer1_rn") is None
        assert not scheme.needs_ranges
    assert parse_scheme("w8a8", "dynamic", ["dpt"]).format("depth_head.scratch.output_conv2.0") is None
    assert not parse_scheme("w8a8").needs_ranges


def batches() -> list[torch.Tensor]:
    return small_batches(2, 2, seed=3)


def test_a_model_with_every_part_survives_the_checkpoint(tmp_path: Path) -> None:
    model = small_model()
    float_model = small_model()
    scheme = parse_scheme("w8a8", "dynamic", ["dino", "aggregator", "camera", "dpt"])
    table = quantize_rtn_(model, scheme, batches(), progress=False)
    convs = dict(quantized_convs(model))
    assert len(convs) == 60  # 30 in each head
    assert len(list(quantized_linears(model))) == 40
    assert set(table) == {*convs, *(path for path, _ in quantized_linears(model))}
    assert all(table[path]["output_amax"] > 0 for path in convs)
    save_calibrated(tmp_path / "c", model, scheme, Provenance())
    loaded = load_calibrated(tmp_path / "c")
    assert loaded.scheme.label == "w8a8-dynamic+camera+dpt"
    images = batches()[0]
    with torch.no_grad():
        expected, got, exact = (m(images) for m in (model, loaded.model, float_model))
    for name, value in expected.items():
        assert torch.equal(got[name], value)
    error = (expected["depth"].log() - exact["depth"].log()).norm() / exact["depth"].log().norm()
    assert error < 0.1


def test_the_range_before_a_relu_is_that_of_what_passes() -> None:
    """The output grid of the first convolution of a unit is then the input grid of the second: one rounding."""
    model = small_model()
    unit = "depth_head.scratch.refinenet2.resConfUnit1"
    ranges = observe_convs(model, batches(), [f"{unit}.conv1", f"{unit}.conv2"], progress=False)
    assert ranges[f"{unit}.conv1"].output == ranges[f"{unit}.conv2"].input


def test_ranges_need_data() -> None:
    model = small_model()
    scheme = parse_scheme("w8a8", "dynamic", ["dpt"])
    paths = [path for path, _, _ in scheme_convs(model, scheme)]
    with pytest.raises(QvggtError, match="no input seen"):
        observe_convs(model, [], paths, progress=False)
    with pytest.raises(QvggtError, match="holds NaN"):
        observe_convs(model, [torch.full((1, 3, SIZE, SIZE), torch.nan)], paths, progress=False)
    with pytest.raises(QvggtError, match="needs observed ranges"):
        quantize_(model, scheme)
    assert not list(quantized_convs(model))


def test_holds_no_gradient_of_the_convolution_it_comes_from() -> None:
    for ranges in (None, ConvRange(1.0, 1.0)):
        format = FORMAT if ranges is not None else find_format("w4a16", "static").convolution
        if format is not None:
            module = QuantConv2d.from_float(nn.Conv2d(3, 4, 1), format, ranges)
            assert not any(buffer.requires_grad for buffer in module.buffers())
