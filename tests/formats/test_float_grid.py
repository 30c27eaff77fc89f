from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qvggt.formats.float_grid import E2M1, E4M3, FloatGrid
from qvggt.formats.granularity import block
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.formats.tensor_format import LEAST_BLOCK, TensorFormat

GRIDS = pytest.mark.parametrize("grid", [E4M3, E2M1], ids=lambda grid: grid.name)
ONNX = {E4M3: TensorProto.FLOAT8E4M3FN, E2M1: TensorProto.FLOAT4E2M1}
arrays = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-600, 600, width=32)).map(torch.tensor)
quick = settings(deadline=None, max_examples=60)
NVFP4 = TensorFormat(E2M1, block(16), scale_grid=E4M3)


def every_value(grid: FloatGrid) -> torch.Tensor:
    patterns = torch.arange(2**grid.storage_bits, dtype=torch.uint8)
    values = grid.values(patterns)
    return values[values.abs() <= grid.highest]  # E4M3 spends two patterns on NaN


def test_values_of_e2m1() -> None:
    assert every_value(E2M1).unique().tolist() == [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]


def test_values_of_e4m3_are_torchs() -> None:
    patterns = torch.arange(256, dtype=torch.uint8)
    own, theirs = E4M3.values(patterns), patterns.view(torch.float8_e4m3fn).float()
    kept = theirs.isfinite()
    assert kept.sum() == 254
    assert torch.equal(own[kept], theirs[kept])
    assert torch.equal(E4M3.bits(theirs[kept]), patterns[kept])


@GRIDS
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_every_value_is_kept_and_every_middle_goes_to_the_even_code(grid: FloatGrid, kind: torch.dtype) -> None:
    values = every_value(grid).to(kind).unique()
    assert torch.equal(grid.round(values, 1.0), values)
    middles = (values[1:] + values[:-1]) / 2
    rounded = grid.round(middles, 1.0)
    assert ((rounded == values[1:]) | (rounded == values[:-1])).all()
    assert (grid.bits(rounded) % 2 == 0).all()
    assert grid.near_boundary(middles, 1e-4).all()
    assert not grid.near_boundary(values, 1e-4).any()


@GRIDS
@quick
@given(arrays, st.sampled_from([1.0, 0.25, 3.0]))
def test_rounds_as_onnx_does(grid: FloatGrid, x: torch.Tensor, scale: float) -> None:
    """Saturating, in the reference evaluator of ONNX."""
    zero = helper.make_tensor("zero", ONNX[grid], [], [0.0])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["y"]),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    constants = [numpy_helper.from_array(np.float32(scale), "scale"), zero]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    onnx.checker.check_model(model)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x.numpy()})
    assert torch.equal(grid.round(x, scale) * scale, torch.tensor(np.asarray(expected, np.float32)))


@GRIDS
@quick
@given(arrays, st.integers(1, 3))
def test_packs_and_unpacks(grid: FloatGrid, x: torch.Tensor, rows: int) -> None:
    codes = grid.round(x, 1.0).repeat(rows, 1).to(grid.dtype)
    packed = grid.pack(codes)
    assert packed.dtype == torch.uint8
    assert len(packed) == -(-codes.numel() * grid.storage_bits // 8)
    assert torch.equal(grid.unpack(packed, tuple(codes.shape)).float(), codes.float())
    with pytest.raises(ValueError, match="cannot hold shape"):
        grid.unpack(packed[:-1], tuple(codes.shape))


@GRIDS
def test_gradient_stops_where_a_code_saturates(grid: FloatGrid) -> None:
    x = torch.tensor([0.3, -1.2, 2 * grid.highest], requires_grad=True)
    rounded = grid.round(x, 1.0, straight_through=True)
    assert torch.equal(rounded.detach(), grid.round(x.detach(), 1.0))
    rounded.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 0]


def test_block_scales_are_codes_under_one_scale_of_the_row() -> None:
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-9, 3, 40)
    scale = NVFP4.scale(weight)
    codes, outer = NVFP4.split_scale(scale)
    assert codes.shape == (8, 3)
    assert outer.shape == (8, 1)
    assert torch.equal(E4M3.round(codes, 1.0), codes)
    assert codes.amin() >= LEAST_BLOCK
    assert (codes.amax(-1) == 448).all()
    assert torch.equal(codes * outer, scale)
    factor = torch.rand(8, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    folded, moved = NVFP4.split_scale(scale * factor)
    assert torch.equal(folded, codes)
    torch.testing.assert_close(moved, outer * factor, rtol=1e-6, atol=0)


def test_blocks_of_activations_take_their_own_scales() -> None:
    """Each within a quarter of its largest value, however far apart blocks lie; what saturates is what the E4M3 scale
    rounds down."""
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 5.0, 20.0, 300.0]
    ).repeat_interleave(16)
    amax = x.abs().amax() * E2M1.headroom
    y, ranges = NVFP4.quantize(x, amax)
    assert ranges is None
    largest = block(16).amax(x).repeat_interleave(16, -1)
    assert ((y - x).abs() <= largest * (1 / 6 + 1 / 16)).all()
    scales = NVFP4.block_scales(x, amax)
    outer = NVFP4.outer_scale(amax)
    torch.testing.assert_close(E4M3.round(scales / outer, 1.0), scales / outer, rtol=1e-6, atol=0)
    zero, _ = NVFP4.quantize(torch.zeros(1, 16), amax)
    assert torch.equal(zero, torch.zeros(1, 16))


def test_a_tie_of_a_scale_is_near_for_the_whole_block() -> None:
    amax = torch.tensor(6 * 448.0)  # scale of scales 1
    x = torch.full((1, 32), 0.1)
    x[0, 0], x[0, 16] = 6 * 17.0, 6 * 16.5  # between the codes 16 and 18; no tie
    near = NVFP4.near_boundary(x, amax, 1e-4)
    assert near[0, :16].all()
    assert not near[0, 16:].any()


def test_names_and_bytes() -> None:
    nvfp4, fp8 = find_format("nvfp4", "dynamic"), find_format("fp8", "dynamic")
    assert isinstance(nvfp4, LinearFormat)
    assert isinstance(fp8, LinearFormat)
    assert (nvfp4.name, fp8.name, fp8.with_constant_range().name) == ("nvfp4", "fp8-dynamic", "fp8-static")
    assert nvfp4.observed
    assert not fp8.observed
    assert nvfp4.stored_bytes((32, 64)) == 32 * 64 // 2 + 32 * 4 + 4 * 32
    assert fp8.stored_bytes((32, 64)) == 32 * 64 + 4 * 32
