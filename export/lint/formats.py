"""Rules on number formats: zero points, code types, casts, and what may read stored codes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from qvggt.export.lint.rule import Place, Severity, nodes, rule
from qvggt.onnx_view.graph import Model, Node
from qvggt.onnx_view.quantizer import (
    FLOATS,
    FP4,
    FP8,
    INT4,
    INT8,
    SUPPORTED,
    UINT8,
    Quantizer,
    as_quantizer,
    quantizers,
    type_name,
)

# types that a tensor of the network may have; UINT8 only as input of a Cast, INT4 and so on only next to Q/DQ
PACKED = frozenset({INT4, FP8, FP4})
KNOWN = {TensorProto.UNDEFINED, TensorProto.BOOL, TensorProto.INT32, TensorProto.INT64, INT8, UINT8} | PACKED | FLOATS
CAST_REFUSED = PACKED | {UINT8}


@rule("QV101", "zero-point", Severity.ERROR, quantizers, documented=True)
def zero_point(quantizer: Quantizer) -> Iterator[str]:
    """a zero point other than 0: TensorRT's grids are symmetric, it refuses the model.

    Fix: quantize symmetrically, with a zero point of 0.
    """
    value = quantizer.scope.value(quantizer.zero_point) if quantizer.zero_point else None
    if value is not None and (wrong := value.astype(np.float64)[value.astype(np.float64) != 0]).size:
        yield f"{wrong.size} of {value.size}, first {wrong[0]:g}"


@rule("QV102", "zero-point-computed", Severity.ERROR, quantizers, documented=True)
def zero_point_computed(quantizer: Quantizer) -> Iterator[str]:
    """the zero point is computed when the model runs: TensorRT wants it stored, it refuses the model.

    Fix: store a zero point of 0.
    """
    computed = quantizer.zero_point and not quantizer.scope.is_constant(quantizer.zero_point)
    if computed and quantizer.codes != FP8:  # of those TensorRT takes no notice
        yield ""


@rule("QV103", "unsigned-codes", Severity.ERROR, quantizers)
def unsigned_codes(quantizer: Quantizer) -> Iterator[str]:
    """UINT8 codes: stored ones are refused, those of activations silently become INT8, with another range.

    Fix: use int8 codes with an int8 zero point of 0 (without one, QuantizeLinear means uint8).
    """
    if quantizer.codes == UINT8:
        yield ""


@rule("QV104", "code-type", Severity.ERROR, quantizers, documented=True)
def code_type(quantizer: Quantizer) -> Iterator[str]:
    """codes of a type that TensorRT has no Q/DQ for.

    Fix: use INT8, INT4, FLOAT8E4M3FN or FLOAT4E2M1 codes; leave a bias in floating point.
    """
    if quantizer.codes not in SUPPORTED and quantizer.codes not in (0, UINT8):
        yield type_name(quantizer.codes)


@rule("QV105", "cast-to-codes", Severity.ERROR, nodes)
def cast_to_codes(node: Node) -> Iterator[str]:
    """a Cast to or from a type that only Q/DQ may make and read, or that TensorRT lacks: it does not build.

    Fix: write codes with QuantizeLinear, read them with DequantizeLinear; for 4-bit values keep an int8 container.
    """
    if node.is_op("Cast", "CastLike"):
        to = node.integer("to") if node.op == "Cast" else node.scope.dtype(node.input(1))
        read = node.scope.dtype(node.input(0))
        if to in CAST_REFUSED or to not in KNOWN:
            yield f"to {type_name(to)}"
        elif read in PACKED:
            yield f"from {type_name(read)}"


@rule("QV106", "codes-not-dequantized", Severity.ERROR, nodes)
def codes_not_dequantized(node: Node) -> Iterator[str]:
    """stored codes are read by another operator than DequantizeLinear: TensorRT refuses the model.

    Fix: transpose, reshape and so on behind the DequantizeLinear, where it is folded anyway.
    """
    if as_quantizer(node) is not None:
        return
    for name in dict.fromkeys(node.inputs):
        producer = node.scope.producer(name)
        stored = producer is None or producer.is_op("Constant")
        tensor = node.scope.constant(name) if name and stored else None
        if tensor is not None and tensor.data_type in (INT8, INT4, FP8, FP4):
            yield f"{name}, {type_name(tensor.data_type)}"


@rule("QV107", "tensor-type", Severity.ERROR)
def tensor_type(model: Model) -> Iterator[Place]:
    """a tensor of a type that TensorRT lacks.

    Fix: use float, float16, bfloat16, int32, int64 or bool tensors.
    """
    seen: set[tuple[int, str]] = set()
    for node in model.nodes:
        if as_quantizer(node) is not None:
            continue  # QV103 and QV104 look at those
        cast = node.is_op("Cast", "CastLike")
        for name in [*node.inputs, *([] if cast else node.outputs)]:
            kind = node.scope.dtype(name) if name else 0
            foreign = kind not in KNOWN or (kind == UINT8 and not cast and not _codes(node, name))
            if foreign and (id(node.scope), name) not in seen:
                seen.add((id(node.scope), name))
                yield Place(node.label, node.op, f"{name}, {type_name(kind)}")


@rule("QV108", "scalar-codes", Severity.ERROR, quantizers)
def scalar_codes(quantizer: Quantizer) -> Iterator[str]:
    """a stored code without any axis (rank 0) behind DequantizeLinear, as of a constant factor: TensorRT fails to
    build.

    Fix: store it with the shape [1], or leave the constant in floating point.
    """
    tensor = None if quantizer.quantizes else quantizer.scope.constant(quantizer.source)
    if tensor is not None and not tensor.dims and quantizer.codes in PACKED | {INT8}:
        yield f"{quantizer.source}, {type_name(quantizer.codes)}"


def _codes(node: Node, name: str) -> bool:
    """Whether a Q or DQ makes or reads a tensor: then UINT8 is the matter of QV103."""
    made = as_quantizer(node.scope.producer(name)) is not None
    return made or any(as_quantizer(reader) is not None for reader in node.scope.consumers(name))
