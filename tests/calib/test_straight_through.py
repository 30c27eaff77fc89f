"""The fused quantizers give the numbers and the gradients of the formats' own, which autograd takes apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qvggt.calib.straight_through import fused, quantized_rows, quantized_tokens
from qvggt.formats.table import find_format
from qvggt.formats.tensor_format import TensorFormat


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(out: Tensor, wanted: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((out * wanted).sum(), inputs)


@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_tokens(mode: str, bits: str) -> None:
    format = find_format(bits, mode).activation  # type: ignore[arg-type,union-attr]
    assert isinstance(format, TensorFormat)
    x, scale = noise(3, 40, 16).requires_grad_(), (noise(16, seed=1).abs() + 0.5).requires_grad_()
    with torch.no_grad():
        x[0, 0], x[0, 1, 3] = 0.0, 50.0  # a token without a range, and one with an outlier
    ranges = torch.tensor([0.7, 0.6] if mode == "dynamic" else 1.5, dtype=torch.float64, requires_grad=True)
    plain, a = format.quantize(x / scale, ranges, straight_through=True)
    plain = plain if a is None else plain * a
    ours = quantized_tokens(x, scale, ranges, format)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    wanted = noise(3, 40, 16, seed=2)
    for got, expected in zip(*(gradients(y, wanted, x, scale, ranges) for y in (ours, plain)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bits", ["w4a4", "w4a16b32"])
def test_rows(bits: str) -> None:
    format = find_format(bits).weight  # type: ignore[union-attr]
    weight = noise(24, 80).requires_grad_()
    with torch.no_grad():
        weight[0], weight[1] = 1e-9 * weight[0], weight[1].abs()  # a row below the floor, and one that has one side
    groups = format.granularity.groups(80)
    low, high = ((noise(24, groups, 1, seed=s).sigmoid() / 2 + 0.49).requires_grad_() for s in (1, 2))
    split = format.granularity.split(weight)
    least, most = split.amin(-1, keepdim=True).clamp_max(0), split.amax(-1, keepdim=True).clamp_min(0)
    clipped = torch.maximum(torch.minimum(split, most * high), least * low).flatten(1)[:, :80]
    scale = format.scale(clipped)
    plain = format.dequantize(format.round(clipped, scale, True), scale)
    ours = quantized_rows(split, low, high, format).flatten(1)[:, :80]
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    wanted = noise(24, 80, seed=3)
    for got, expected in zip(*(gradients(y, wanted, weight, low, high) for y in (ours, plain)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_only_integers_are_fused() -> None:
    for bits, taken in (("w4a4", True), ("fp8", False), ("nvfp4", False)):
        assert fused(find_format(bits).activation) == taken  # type: ignore[union-attr]
    assert not fused(find_format("w4a16").activation)  # type: ignore[union-attr]
