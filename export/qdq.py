"""Q/DQ emission: a `QuantLinear` as standard ONNX nodes (DESIGN 3.5, spec/tensorrt.md section 1).

Every form here is one TensorRT accepts: zero point 0, build-time-constant scales, per-tensor activations (a token's
own range is divided out before and multiplied back after), per-channel or per-tensor weights under quantized
activations, block scales only for weight-only formats.

4-bit weights under int8 products are INT4 in the file and int8 in the product: INT4 [N, K] -> DQ(1) -> Transpose ->
Q(1) -> int8 codes. ONNX Runtime and OpenVINO fold that when they load the file, TensorRT keeps INT4 and expands at
run time; docs/storage.md has the forms that were tried.

In a half-precision network the choice of codes, the scales after the product and the bias stay fp32. Both sides of
the product are dequantized to fractions codes / 2^(bits - 1) in [-1, 1], which the half types hold exactly and whose
products cannot overflow; the real steps and row scales come after. So a linear computes the same numbers in every
float type, up to one rounding of its product.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qvggt.export.graph import GraphBuilder
from qvggt.export.precision import Precision
from qvggt.export.token_types import TokenTypes
from qvggt.formats.rounding import EPS, qmax
from qvggt.quant.linear import QuantLinear
from qvggt.quant.transform import InputTransform
from qvggt.target import Target

FP32 = Precision.FP32
SMALLEST_NORMAL = 2.0**-14  # of fp16: below, weight-only block scales would lose digits


def emit_quant_linear(
    builder: GraphBuilder,
    path: str,
    module: QuantLinear,
    x: str,
    target: Target,
    parameters: str,
    precision: Precision | None = None,
    types: TokenTypes | None = None,
) -> str:
    """Nodes `<path>/...` of one quantized linear on x [..., K], initializers `<parameters>.*`; returns y [..., N].

    `types`: of the tokens. Where the linear centers its input, that happens in nodes
    `<path>.center/...` before and `<path>.kind_bias/...` after, which leave the linear itself as any other. x may have
    any float type. y is fp32 with quantized activations (the scales after the product are), in `precision` (by
    default the network's) without.
    """
    format, precision = module.format, precision or builder.precision
    if module.types:
        x = _centered(builder, path, module, x, target, parameters, types)
    if module.transform is not None:
        x = _transform(builder, path, module.transform, x, parameters, precision)
    if format.activation is None:
        return _weight_only(builder, path, module, builder.cast(x, precision, path), parameters, precision)
    x = builder.cast(x, FP32, path)
    scale_after: list[str] = []
    if format.activation == "dynamic":
        x, token_range, gain = _quantize_tokens(builder, path, module, x, precision)
        scale_after.append(token_range)
    else:
        x, gain = _quantize_tensor(builder, path, module, x, target, precision)
    weight, row_scale = _weight(builder, path, module, target, parameters, precision, gain)
    y = builder.cast(builder.op("MatMul", [x, weight], path), FP32, path)
    if row_scale is not None:
        scale_after.insert(0, row_scale)
    for scale in scale_after:
        y = builder.op("Mul", [y, scale], path)
    if module.kind_bias is not None and types is not None:
        name, table, at = f"{parameters}.kind_bias", _array(module.kind_bias), f"{path}.kind_bias"
        return builder.op("Add", [y, types.spread(at, name, table, _int4_product(module, target))], at)
    return _biased(builder, path, module, y, parameters)


def _centered(
    builder: GraphBuilder,
    path: str,
    module: QuantLinear,
    x: str,
    target: Target,
    parameters: str,
    types: TokenTypes | None,
) -> str:
    """x without the center of each token's type, fp32."""
    if types is None or module.transform is None or module.transform.center is None:
        raise TypeError(f"{path}: centers its input, and needs the types of its tokens")
    name, table, at = f"{parameters}.center", _array(module.transform.center), f"{path}.center"
    center = types.spread(at, name, table, _int4_product(module, target))
    return builder.op("Sub", [builder.cast(x, FP32, at), center], at)


def _biased(builder: GraphBuilder, path: str, module: QuantLinear, y: str, parameters: str) -> str:
    if module.bias is None:
        return y
    return builder.op(
        "Add", [y, builder.real(f"{parameters}.bias", _array(module.bias), builder.precision_of(y))], path
    )


def _weight_only(
    builder: GraphBuilder, path: str, module: QuantLinear, x: str, parameters: str, precision: Precision
) -> str:
    """INT4 codes [K, N] with a scale per block of K, multiplied by float activations."""
    scales = np.ascontiguousarray(_array(module.weight_scale).T)  # [blocks, N]
    scales, block = _whole_blocks(scales, module.format.block or module.in_features, module.in_features)
    lift = 1.0
    if precision is Precision.FP16 and scales.min() < SMALLEST_NORMAL:
        lift = 2.0 ** -math.ceil(math.log2(scales.max()))  # a power of two: moves the exponents, changes no digit
    scale = builder.real(f"{parameters}.weight_scale", scales * np.float32(lift), precision)
    if parameters != path:  # one name per use: TensorRT merges equal DQs, and expands a weight with several users
        scale = builder.op("Identity", [scale], path)
    codes = np.ascontiguousarray(_array(module.codes).T)
    stored = (
        builder.int4_constant(f"{parameters}.weight_codes", codes)
        if module.format.weight_bits == 4
        else builder.constant(f"{parameters}.weight_codes", codes)
    )
    weight = builder.op("DequantizeLinear", [stored, scale], path, axis=0, block_size=block)
    y = builder.op("MatMul", [x, weight], path)
    if lift != 1:
        y = builder.op("Mul", [y, builder.real(f"lift_{int(math.log2(lift))}", _scalar(1 / lift), precision)], path)
    return _biased(builder, path, module, y, parameters)


def _whole_blocks(scales: NDArray[np.generic], block: int, length: int) -> tuple[NDArray[np.generic], int]:
    """Scales [blocks, N] repeated in smaller blocks that divide K = `length` evenly and are at least two.

    TensorRT cuts K into equal blocks whatever the block size says, and expands a weight of one block at every run
    (lint rules QV204 and QV304).
    """
    size = length if block >= length else math.gcd(block, length)
    if size == length and size % 2 == 0:
        size //= 2
    return np.ascontiguousarray(scales[np.arange(0, length, size) // block]), size


def _transform(
    builder: GraphBuilder, path: str, transform: InputTransform, x: str, parameters: str, precision: Precision
) -> str:
    """An online Kronecker Hadamard as two small products on [N, L, rows, cols], then a factor per channel.

    The products run in the network's float type; what comes before and after them in fp32.
    """
    rotation, b = transform.rotation, builder
    x = b.cast(x, FP32, path)
    if rotation is not None:
        if bool((rotation.signs != 1).any()):
            x = b.op("Mul", [x, b.constant(f"{parameters}.transform.signs", _array(rotation.signs))], path)
        rows, cols = rotation.factors
        x = b.reshape(b.cast(x, precision, path), (0, 0, rows, cols), path)
        left = b.real(f"{parameters}.transform.left", np.ascontiguousarray(_array(rotation.left).T), precision)
        right = b.real(f"{parameters}.transform.right", _array(rotation.right), precision)
        x = b.op("MatMul", [b.op("MatMul", [left, x], path), right], path)
        x = b.cast(b.reshape(x, (0, 0, rows * cols), path), FP32, path)
    if transform.scale is not None:
        x = b.op("Mul", [x, b.constant(f"{parameters}.transform.scale", _array(transform.scale))], path)
    return x


def _quantize_tokens(
    builder: GraphBuilder, path: str, module: QuantLinear, x: str, precision: Precision
) -> tuple[str, str, float]:
    """x / a on the grid of step 1/Q, a = max(c max |x|, eps) fp32 [..., 1], one range per token, and a gain."""
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
    bits = module.format.act_bits
    normalised = builder.op("Div", [x, a], path)
    x, gain = round_values(builder, path, normalised, np.float32(1) / np.float32(qmax(bits)), bits, np.int8, precision)
    return x, a, gain


def _quantize_tensor(
    builder: GraphBuilder, path: str, module: QuantLinear, x: str, target: Target, precision: Precision
) -> tuple[str, float]:
    """x on the grid of the tensor's learned or observed range, and a gain."""
    format = module.format
    step = np.float32(module.act_amax) / np.float32(qmax(format.act_bits))
    container = "int4" if _int4_product(module, target) else np.int8
    return round_values(builder, path, x, step, format.act_bits, container, precision)


def _int4_product(module: QuantLinear, target: Target) -> bool:
    """Whether both sides of the product are INT4: static w4a4 for TensorRT."""
    format = module.format
    static = format.activation == "static" and format.act_bits == format.weight_bits == 4
    return target is Target.TENSORRT and static


def round_values(
    builder: GraphBuilder,
    path: str,
    x: str,
    step: np.float32,
    bits: int,
    container: object,
    precision: Precision,
) -> tuple[str, float]:
    """Clip (when the container is wider than the grid), QuantizeLinear, DequantizeLinear with constant steps.

    x fp32 -> (codes as multiples of a spacing, in `precision`; `step` over that spacing, to be multiplied back). The
    spacing is `step` itself in fp32; in a half type 2^(1 - bits), so that no product of K < 65504 terms overflows.
    """
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
    if precision is FP32:
        return builder.op("DequantizeLinear", [codes, scale, zero], path), 1.0
    power = 2.0 ** (1 - bits)
    inner = builder.real(f"power_{bits}", _scalar(power), precision)
    return builder.op("DequantizeLinear", [codes, inner, zero], path), float(step) / power


def _weight(
    builder: GraphBuilder,
    path: str,
    module: QuantLinear,
    target: Target,
    parameters: str,
    precision: Precision,
    gain: float,
) -> tuple[str, str | None]:
    """Weight [K, N] inside the product, and the fp32 [N] scale to apply after it, if any, `gain` included."""
    bits = module.format.weight_bits
    codes, scales = _array(module.codes), _array(module.weight_scale)[:, 0]  # [N, K], [N]
    inside = precision is FP32 and target is Target.CPU and bits > 4  # TensorRT crashes on row scales after `_expanded`
    power = 2.0 ** (1 - bits)
    after = None
    if not inside:
        rows = (scales.astype(np.float64) / power * gain).astype(np.float32)
        after = builder.constant(f"{parameters}.weight_scale", rows)
    if _int4_product(module, target):
        stored = builder.int4_constant(f"{parameters}.weight_codes", np.ascontiguousarray(codes.T))
        # one value, but a vector: INT4 with a single scale does not build
        scale = builder.real(f"power_{bits}_{len(scales)}", np.full(len(scales), power, np.float32), precision)
        return builder.op("DequantizeLinear", [stored, scale], path, axis=1), after
    if bits == 4:
        int8 = _expanded(builder, codes, parameters)
    else:
        int8 = builder.constant(f"{parameters}.weight_codes", np.ascontiguousarray(codes.T))
    if inside:
        scale = builder.constant(f"{parameters}.weight_scale", scales)
        return builder.op("DequantizeLinear", [int8, scale], path, axis=1), None
    scale = builder.real(f"power_{bits}", _scalar(power), precision)
    return builder.op("DequantizeLinear", [int8, scale], path), after


def _expanded(builder: GraphBuilder, codes: NDArray[np.generic], parameters: str) -> str:
    """4-bit codes [N, K], stored as INT4, as int8 [K, N].

    Scale per row and Transpose are both needed: TensorRT refuses a single scale here, and ONNX Runtime folds constant
    DQ -> Q pairs only with an operator between them.
    """
    path = f"{parameters}.weight"
    if (known := f"{path}/QuantizeLinear") in builder.types:  # the unrolled camera iterations share it
        return known
    count = len(codes)
    stored = builder.int4_constant(f"{parameters}.weight_codes", np.ascontiguousarray(codes, np.int8))
    ones = builder.constant(f"ones_{count}", np.ones(count, np.float32))
    values = builder.op("DequantizeLinear", [stored, ones], path, axis=0)
    values = builder.op("Transpose", [values], path, perm=[1, 0])
    one, zero = builder.constant("one", _scalar(1)), builder.constant("zero_int8", np.zeros((), np.int8))
    return builder.op("QuantizeLinear", [values, one, zero], path)


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
