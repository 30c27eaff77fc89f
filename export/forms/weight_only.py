"""Weight-only form: codes with a scale per block, dequantized in front of a product with float activations."""

from __future__ import annotations

import math

import numpy as np

from qvggt.errors import QvggtError
from qvggt.export.forms.site import Array, Site, array, scalar
from qvggt.export.precision import Precision
from qvggt.formats.grid import IntegerGrid
from qvggt.formats.linear_format import LinearFormat
from qvggt.onnx_view.documented import int4_block
from qvggt.quant.linear import QuantLinear
from qvggt.target import Target

SMALLEST_NORMAL = 2.0**-14  # of fp16: below, block scales would lose digits


def takes(format: LinearFormat) -> bool:
    """Integer weights under floating-point activations."""
    return format.activation is None and isinstance(format.weight.grid, IntegerGrid)


def emit_weight_only(site: Site, module: QuantLinear, x: str) -> str:
    """Codes [K, N] with a scale per block of K; y in the site's float type."""
    format, x = module.format.weight, site.cast(x, site.precision)
    scales = np.ascontiguousarray(array(module.weight_scale).T)  # [blocks, N]
    asked, length = format.granularity.size or module.in_features, module.in_features
    scales, size = whole_blocks(scales, asked, length, site.target is Target.TENSORRT_10)
    if size is None:
        raise QvggtError(
            f"{site.path}: {length} inputs in blocks of {min(asked, length)}, TensorRT takes INT4 weights in blocks of "
            f"64 or 128; choose another --block, give it another format with --override, or export with --backend rtx"
        )
    lift = lift_of(scales, site.precision)
    scale = site.real("weight_scale", scales * np.float32(lift))
    if site.parameters != site.path:  # a name per use: TensorRT merges equal DQs, and expands a weight with many users
        scale = site.op("Identity", [scale])
    stored = site.stored_codes(array(module.codes).T, format.grid.container)
    weight = site.op("DequantizeLinear", [stored, scale], axis=0, block_size=size)
    y = site.op("MatMul", [x, weight])
    if lift != 1:
        down = site.builder.real(f"lift_{int(math.log2(lift))}", scalar(1 / lift), site.precision)
        y = site.op("Mul", [y, down])
    return y


def lift_of(scales: Array, precision: Precision) -> float:
    """What scales are stored times, and the product is divided by: 1, or in fp16 a power of two, which moves exponents
    and changes no digit."""
    if precision is Precision.FP16 and scales.min() < SMALLEST_NORMAL:
        return float(2.0 ** -math.ceil(math.log2(scales.max())))
    return 1.0


def whole_blocks(scales: Array, block: int, length: int, documented: bool = False) -> tuple[Array, int | None]:
    """Scales [blocks, N] repeated in smaller blocks that divide K = `length` evenly and are at least two.

    TensorRT-RTX cuts K into equal blocks whatever the block size says, and expands a weight of one block at every run
    (lint rules QV204 and QV304). documented: only blocks that TensorRT documents, None where there is none (QV801).
    """
    span = length if block >= length else math.gcd(block, length)
    halves = span == length and span % 2 == 0
    size = int4_block(span, length) if documented else span // 2 if halves else span
    return (scales, None) if size is None else (np.ascontiguousarray(scales[np.arange(0, length, size) // block]), size)
