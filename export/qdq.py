"""Q/DQ emission: a `QuantLinear` as standard ONNX nodes (DESIGN 3.5, spec/tensorrt.md section 1).

Every form here is one TensorRT accepts: zero point 0, build-time-constant scales, per-tensor activations (a token's
own range is divided out before and multiplied back after), per-channel or per-tensor weights under quantized
activations, block scales only for weight-only formats.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from qvggt.export.graph import GraphBuilder
from qvggt.quant.linear import QuantLinear
from qvggt.quant.quantizer import EPS, qmax
from qvggt.quant.transform import InputTransform


class Target(str, Enum):
    """What the file is for. A target changes storage and float type, never the numbers a linear computes.

    cpu: int8 containers and per-row weight scales, what ONNX Runtime and OpenVINO turn into INT8 kernels.
    tensorrt: 4-bit weights stored as INT4; wider weights with one tensor scale, the row scales applied after the
    product, because TensorRT keeps a per-row product's raw accumulator in fp16, where 8-bit sums overflow.
    """

    CPU = "cpu"
    TENSORRT = "tensorrt"


def emit_quant_linear(
    builder: GraphBuilder, path: str, module: QuantLinear, x: str, target: Target, parameters: str
) -> str:
    """Nodes `<path>/...` of one quantized linear on x [..., K], initializers `<parameters>.*`; returns y [..., N]."""
    format = module.format
    if module.transform is not None:
        x = _transform(builder, path, module.transform, x, parameters)
    scale_after: list[str] = []
    if format.activation == "dynamic":
        x, token_range = _quantize_tokens(builder, path, module, x)
        scale_after.append(token_range)
    elif format.activation == "static":
        x = _quantize_tensor(builder, path, module, x, target)
    weight, column_scale = _weight(builder, path, module, target, parameters)
    y = builder.op("MatMul", [x, weight], path)
    if column_scale is not None:
        scale_after.insert(0, column_scale)
    for scale in scale_after:
        y = builder.op("Mul", [y, scale], path)
    if module.bias is not None:
        y = builder.op("Add", [y, builder.constant(f"{parameters}.bias", _array(module.bias))], path)
    return y


def _transform(builder: GraphBuilder, path: str, transform: InputTransform, x: str, parameters: str) -> str:
    """Online Kronecker Hadamard as two small products on [N, L, rows, cols], then a factor per channel."""
    rotation, b = transform.rotation, builder
    if rotation is not None:
        x = b.op("Mul", [x, b.constant(f"{parameters}.transform.signs", _array(rotation.signs))], path)
        rows, cols = rotation.factors
        x = b.reshape(x, (0, 0, rows, cols), path)
        x = b.op(
            "MatMul",
            [b.constant(f"{parameters}.transform.left", np.ascontiguousarray(_array(rotation.left).T)), x],
            path,
        )
        x = b.op("MatMul", [x, b.constant(f"{parameters}.transform.right", _array(rotation.right))], path)
        x = b.reshape(x, (0, 0, rows * cols), path)
    if transform.scale is not None:
        x = b.op("Mul", [x, b.constant(f"{parameters}.transform.scale", _array(transform.scale))], path)
    return x


def _quantize_tokens(builder: GraphBuilder, path: str, module: QuantLinear, x: str) -> tuple[str, str]:
    """x / a on the grid of step 1/Q, and a = max(c max |x|, eps) [..., 1], one range per token."""
    low, high = (float(c) for c in module.act_clip)
    axis = builder.constant("axis_last", np.array([-1], np.int64))
    if low == high:
        a = builder.op("ReduceMax", [builder.op("Abs", [x], path), axis], path, keepdims=1)
        a = _scaled(builder, path, a, high)
    else:
        top = builder.op("ReduceMax", [x, axis], path, keepdims=1)
        bottom = builder.op("Neg", [builder.op("ReduceMin", [x, axis], path, keepdims=1)], path)
        a = builder.op("Max", [_scaled(builder, path, top, high), _scaled(builder, path, bottom, low)], path)
    a = builder.op("Max", [a, builder.constant("token_range_floor", _scalar(EPS))], path)
    q = qmax(module.format.act_bits)
    normalised = builder.op("Div", [x, a], path)
    return _round(builder, path, normalised, np.float32(1) / np.float32(q), module.format.act_bits, np.int8), a


def _quantize_tensor(builder: GraphBuilder, path: str, module: QuantLinear, x: str, target: Target) -> str:
    """x on the grid of the tensor's learned or observed range."""
    format = module.format
    step = np.float32(module.act_amax) / np.float32(qmax(format.act_bits))
    int4 = target is Target.TENSORRT and format.act_bits == 4 and format.weight_bits == 4
    return _round(builder, path, x, step, format.act_bits, "int4" if int4 else np.int8)


def _round(builder: GraphBuilder, path: str, x: str, step: np.float32, bits: int, container: object) -> str:
    """Clip (when the container is wider than the grid), QuantizeLinear, DequantizeLinear with a constant step."""
    q = qmax(bits)
    if bits < 8 and container is np.int8:
        # the same products the reference's Clip uses, so both sides saturate at the same float
        bounds = [_scalar(np.float32(-(q + 1)) * step), _scalar(np.float32(q) * step)]
        x = builder.op("Clip", [x, *(builder.constant(_named("bound", b), b) for b in bounds)], path)
    scale_array = _scalar(step)
    scale = builder.constant(_named("step", scale_array), scale_array)
    zero = (
        builder.int4_constant("zero_int4", np.zeros((), np.int8))
        if container == "int4"
        else builder.constant("zero_int8", np.zeros((), np.int8))
    )
    codes = builder.op("QuantizeLinear", [x, scale, zero], path)
    return builder.op("DequantizeLinear", [codes, scale, zero], path)


def _weight(
    builder: GraphBuilder, path: str, module: QuantLinear, target: Target, parameters: str
) -> tuple[str, str | None]:
    """Dequantized weight [K, N], and the [N] scale to apply after the product, if any."""
    format = module.format
    codes = np.ascontiguousarray(_array(module.codes).T)  # [K, N]: MatMul's layout
    scales = np.ascontiguousarray(_array(module.weight_scale).T)  # [blocks, N]
    name = f"{parameters}.weight_codes"
    four_bit = format.weight_bits == 4 and (target is Target.TENSORRT or format.activation is None)
    stored = builder.int4_constant(name, codes) if four_bit else builder.constant(name, codes)
    if format.block is not None:
        scale = builder.constant(f"{parameters}.weight_scale", scales)
        return builder.op("DequantizeLinear", [stored, scale], path, axis=0, block_size=format.block), None
    if target is Target.TENSORRT and format.weight_bits > 4:
        # per-tensor scale inside the GEMM, the rest of the row scale after it: exact up to float rounding
        top = scales.max()
        scale = builder.constant(f"{parameters}.weight_scale", _scalar(top))
        after = builder.constant(f"{parameters}.weight_scale_rows", (scales[0] / top).astype(np.float32))
        return builder.op("DequantizeLinear", [stored, scale], path), after
    scale = builder.constant(f"{parameters}.weight_scale", scales[0])
    return builder.op("DequantizeLinear", [stored, scale], path, axis=1), None


def _scaled(builder: GraphBuilder, path: str, x: str, factor: float) -> str:
    if factor == 1.0:
        return x
    array = _scalar(factor)
    return builder.op("Mul", [x, builder.constant(_named("clip", array), array)], path)


def _named(kind: str, value: NDArray[np.float32]) -> str:
    """A name made of the exact bits, so that equal constants are stored once and distinct ones never collide."""
    return f"{kind}_{value.view(np.uint32).item():08x}"


def _scalar(value: float | np.float32) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def _array(tensor: object) -> NDArray[np.generic]:
    return tensor.detach().cpu().numpy()  # type: ignore[attr-defined, no-any-return]
