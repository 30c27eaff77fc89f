"""Q/DQ emission of a `QuantConv2d`: constant scales, zero point 0, the output on its own grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qvggt.export.graph import GraphBuilder
from qvggt.export.precision import Precision
from qvggt.export.qdq import FP32, round_values
from qvggt.formats.rounding import qmax
from qvggt.quant.conv import QuantConv2d
from qvggt.quant.scheme import CONV_BITS
from qvggt.target import Target

Array = NDArray[np.generic]


def emit_quant_conv(
    builder: GraphBuilder, path: str, module: QuantConv2d, x: str, target: Target, precision: Precision
) -> str:
    """Nodes `<path>/...` of one convolution on x [N, C, H, W] of any float type -> `precision`.

    cpu in fp32: Q, DQ, Conv with a scale per output row and the bias inside, Q, DQ: what ONNX Runtime turns into one
    QLinearConv. Otherwise one weight scale inside and the row scales and the bias after the product in fp32, for the
    reason `Target` gives. The pixels of a transposed convolution are spread by DepthToSpace.
    """
    b, shape = builder, module.shape
    step = np.float32(module.act_amax) / np.float32(qmax(module.format.act_bits))
    inside = precision is FP32 and target is Target.CPU
    x, gain = round_values(b, path, b.cast(x, FP32, path), step, module.format.act_bits, np.int8, precision)
    scales = _array(module.weight_scale)[:, 0].astype(np.float32)
    power = np.float32(2.0 ** (1 - module.format.weight_bits))
    codes = _codes(b, path, module, inside)
    if inside:
        scale = b.constant(f"{path}.weight_scale", scales)
        weight = b.op("DequantizeLinear", [codes, scale], path, axis=0)
    else:
        scale = b.real(f"power_{module.format.weight_bits}", np.array(power, np.float32), precision)
        weight = b.op("DequantizeLinear", [codes, scale], path)
    inputs = [x, weight]
    bias = None if module.bias is None else _array(module.bias).astype(np.float32)
    if inside and bias is not None:
        inputs.append(b.constant(f"{path}.bias", bias))
    y = b.op(
        "Conv",
        inputs,
        path,
        kernel_shape=[shape.kernel] * 2,
        strides=[shape.stride] * 2,
        pads=[shape.padding] * 4,
    )
    if not inside:
        rows = (scales.astype(np.float64) / power * gain).astype(np.float32)
        after = b.constant(f"{path}.weight_scale", rows[:, None, None])
        y = b.op("Mul", [b.cast(y, FP32, path), after], path)
        if bias is not None:
            y = b.op("Add", [y, b.constant(f"{path}.bias", bias[:, None, None])], path)
    step = np.float32(module.out_amax) / np.float32(qmax(CONV_BITS))
    y, _ = round_values(b, path, y, step, CONV_BITS, np.int8, FP32)
    if shape.shuffle > 1:
        y = b.op("DepthToSpace", [y], path, blocksize=shape.shuffle, mode="CRD")
    return b.cast(y, precision, path)


def _codes(builder: GraphBuilder, path: str, module: QuantConv2d, inside: bool) -> str:
    """int8 codes [rows, C, k, k]. 4-bit ones are stored as INT4 and spread to int8 by constant nodes, unless a scale
    per row follows: ONNX Runtime 1.32 turns that pair into one with a mis-shaped zero point."""
    b, codes, name = builder, _array(module.codes), f"{path}.weight_codes"
    if module.format.weight_bits != 4 or inside:
        return b.constant(name, np.ascontiguousarray(codes))
    at, rows = f"{path}.weight", len(codes)
    stored = b.int4_constant(name, np.ascontiguousarray(codes.reshape(rows, -1), np.int8))
    ones = b.constant(f"ones_{rows}", np.ones(rows, np.float32))
    values = b.op("DequantizeLinear", [stored, ones], at, axis=0)
    values = b.reshape(values, codes.shape, at)  # an operator between the two, or ONNX Runtime folds nothing
    one, zero = b.constant("one", np.array(1, np.float32)), b.constant("zero_int8", np.zeros((), np.int8))
    return b.op("QuantizeLinear", [values, one, zero], at)


def _array(tensor: object) -> Array:
    return tensor.detach().cpu().numpy()  # type: ignore[attr-defined, no-any-return]
