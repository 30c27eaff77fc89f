"""Product of codes, integers or FP8: those of both sides multiplied, scales after it (DESIGN 3.5, spec/tensorrt.md
section 1)."""

from __future__ import annotations

import numpy as np

from qvggt.export.forms.site import FP32, Site, array, exact_name, scalar
from qvggt.formats.granularity import ROW, TENSOR, TOKEN
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.tensor_format import EPS
from qvggt.quant.linear import QuantLinear
from qvggt.target import Target

EXPANDED = {"INT8": ("INT4", "INT8"), "FP8": ("INT4", "FP8")}  # what may be stored for a product of these


def takes(format: LinearFormat) -> bool:
    """A scale per row of the weight, per token or per tensor of the input, and codes that fit one container."""
    activation, weight = format.activation, format.weight
    if activation is None or weight.granularity != ROW or activation.granularity not in (TOKEN, TENSOR):
        return False
    return weight.grid.container in EXPANDED.get(_container(format), ())


def emit_code_product(site: Site, module: QuantLinear, x: str) -> str:
    """y fp32, as the scales after the product are."""
    activation = module.format.activation
    assert activation is not None
    container = "INT4" if int4_product(module.format, site.target) else _container(module.format)
    x = site.cast(x, FP32)
    scale_after: list[str] = []
    if activation.dynamic:
        x, token_range = _normalised(site, module, x)
        scale_after.append(token_range)
        x, gain = site.rounded(x, np.float32(activation.grid.unit_scale), activation.grid, container)
    else:
        scale = np.float32(activation.grid.scale(module.act_amax))
        x, gain = site.rounded(x, scale, activation.grid, container)
    weight, row_scale = _weight(site, module, container, gain)
    y = site.cast(site.op("MatMul", [x, weight]), FP32)
    if row_scale is not None:
        scale_after.insert(0, row_scale)
    for factor in scale_after:
        y = site.op("Mul", [y, factor])
    return y


def _container(format: LinearFormat) -> str:
    """Of both sides of the product, unless it is one of INT4: the input's, or INT8."""
    assert format.activation is not None
    container = format.activation.grid.container
    return "INT8" if container == "INT4" else container


def int4_product(format: LinearFormat, target: Target) -> bool:
    """Whether both sides of the product are INT4: static INT4 activations on INT4 weights for TensorRT."""
    activation = format.activation
    static = activation is not None and not activation.dynamic and activation.grid.container == "INT4"
    return target is Target.TENSORRT and static and format.weight.grid.container == "INT4"


def _normalised(site: Site, module: QuantLinear, x: str) -> tuple[str, str]:
    """x / a, a = max(c max |x|, eps) fp32 [..., 1], one range per token; and a."""
    low, high = (float(c) for c in module.act_clip)
    axis = site.builder.constant("axis_last", np.array([-1], np.int64))
    # ReduceMax of Abs would be one node less, and write a tensor as large as the input
    top = site.op("ReduceMax", [x, axis], keepdims=1)
    bottom = site.op("Neg", [site.op("ReduceMin", [x, axis], keepdims=1)])
    if low == high:
        a = _scaled(site, site.op("Max", [top, bottom]), high)
    else:
        a = site.op("Max", [_scaled(site, top, high), _scaled(site, bottom, low)])
    a = site.op("Max", [a, site.builder.constant("token_range_floor", scalar(EPS))])
    return site.op("Div", [x, a]), a


def _weight(site: Site, module: QuantLinear, container: str, gain: float) -> tuple[str, str | None]:
    """Weight [K, N] inside the product, and the fp32 [N] scale to apply after it, if any, `gain` included.

    Codes stored as INT4 are INT4 in an INT4 product and expanded in any other.
    """
    grid = module.format.weight.grid
    stored = grid.container
    codes, scales = array(module.codes), array(module.weight_scale)[:, 0]  # [N, K], [N]
    # TensorRT crashes on row scales after `expanded`
    inside = site.precision is FP32 and site.target is Target.CPU and stored != "INT4"
    after = None
    if not inside:
        rows = (scales.astype(np.float64) / grid.fraction * gain).astype(np.float32)
        after = site.constant("weight_scale", rows)
    if container == "INT4":
        # one value, but a vector: INT4 with a single scale does not build
        int4, scale = site.stored_codes(codes.T, "INT4"), site.power(grid.fraction, len(scales))
        return site.op("DequantizeLinear", [int4, scale], axis=1), after
    wide = site.expanded(codes, container) if stored == "INT4" else site.stored_codes(codes.T, container)
    if inside:
        return site.op("DequantizeLinear", [wide, site.constant("weight_scale", scales)], axis=1), None
    return site.op("DequantizeLinear", [wide, site.power(grid.fraction)]), after


def _scaled(site: Site, x: str, factor: float) -> str:
    if factor == 1.0:
        return x
    value = scalar(factor)
    return site.op("Mul", [x, site.builder.constant(exact_name("clip", value), value)])
