"""Product of codes in blocks (NVFP4): both sides have a scale for each block of inputs, itself a code on a small grid,
and scales of these scales are applied after the product (docs/storage.md)."""

from __future__ import annotations

import numpy as np
import torch
from onnx import TensorProto

from qvggt.errors import QvggtError
from qvggt.export.forms.site import DTYPES, FP32, Site, array, exact_name, scalar
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.tensor_format import LEAST_BLOCK, TensorFormat
from qvggt.quant.linear import QuantLinear


def takes(format: LinearFormat) -> bool:
    """FP4 in the same blocks on both sides, under FP8 scales."""
    return all(
        numbers is not None
        and numbers.scale_grid is not None
        and (numbers.grid.container, numbers.scale_grid.container) == ("FP4", "FP8")
        and numbers.granularity == format.weight.granularity
        for numbers in (format.weight, format.activation)
    )


def emit_block_product(site: Site, module: QuantLinear, x: str) -> str:
    """y fp32, as the one vector of scales after the product is. x [S, P, K]."""
    weight, activation = module.format.weight, module.format.activation
    size = weight.granularity.size
    assert activation is not None
    assert size is not None
    if module.in_features % size:
        raise QvggtError(
            f"{site.path}: {module.in_features} inputs are no multiple of {size}, the block of {module.format.name}; "
            f"give it another format: --override {site.path}=fp8"
        )
    # what the codes of blocks are multiplied with in the product: powers of two, which every float type holds
    inner = _fraction(weight) * _fraction(activation)
    outer = np.float32(activation.outer_scale(module.act_amax))
    x = _rounded(site, activation, site.cast(x, FP32), module.in_features // size, outer)
    scales, rows = weight.split_scale(module.weight_scale)  # [N, groups], [N, 1]
    y = site.op("MatMul", [x, _weight(site, module, scales.T)])
    after = array(rows)[:, 0].astype(np.float64) * float(outer) / inner
    return site.op("Mul", [site.cast(y, FP32), site.constant("weight_scale", after.astype(np.float32))])


def _fraction(numbers: TensorFormat) -> float:
    assert numbers.scale_grid is not None
    return numbers.grid.fraction * numbers.scale_grid.fraction


def _rounded(site: Site, numbers: TensorFormat, x: str, groups: int, outer: np.float32) -> str:
    """x fp32 -> codes times those of their blocks' scales times `_fraction`, in the site's float type."""
    builder, size, zero = site.builder, numbers.granularity.size, site.zero("FP8")
    amax = site.op("Abs", [builder.reshape(x, (0, 0, groups, size or 0), site.path)])
    amax = site.op("ReduceMax", [amax, builder.constant("axis_last", np.array([-1], np.int64))], keepdims=0)
    unit, step, floor = (scalar(v) for v in (numbers.grid.unit_scale, outer, outer * np.float32(LEAST_BLOCK)))
    scale = site.op("Mul", [amax, builder.constant(exact_name("unit", unit), unit)])
    scale = site.op("Max", [scale, builder.constant(exact_name("floor", floor), floor)])
    scale_of_scales = builder.constant(exact_name("step", step), step)
    codes = site.op("QuantizeLinear", [scale, scale_of_scales, zero])
    scale = site.op("DequantizeLinear", [codes, scale_of_scales, zero])
    blocks = {"axis": -1, "block_size": size}
    values = site.op("QuantizeLinear", [x, scale], output_dtype=TensorProto.FLOAT4E2M1, **blocks)
    inside = site.op("DequantizeLinear", [codes, site.power(_fraction(numbers)), zero])
    return site.op("DequantizeLinear", [values, inside], **blocks)


def _weight(site: Site, module: QuantLinear, scales: torch.Tensor) -> str:
    """Weight [K, N] inside the product from codes of its blocks' scales [groups, N]."""
    numbers = module.format.weight
    stored = site.constant("block_scale", array(scales).astype(DTYPES["FP8"]))
    scale = site.op("DequantizeLinear", [stored, site.power(_fraction(numbers))])
    codes = site.stored_codes(array(module.codes).T, "FP4")
    return site.op("DequantizeLinear", [codes, scale], axis=0, block_size=numbers.granularity.size)
