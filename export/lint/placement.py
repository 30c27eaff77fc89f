"""Rules on where Q/DQ stand: next to their product, around both operands, one pair at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qvggt.export.lint.rule import Severity, rule
from qvggt.onnx_view.graph import Node
from qvggt.onnx_view.product import Product, distant_dq, factor_shape, find_dq, products
from qvggt.onnx_view.quantizer import INT4, Quantizer, quantizers, type_name


@rule("QV401", "not-adjacent", Severity.WARNING, products)
def not_adjacent(product: Product) -> Iterator[str]:
    """an operator stands between DequantizeLinear and the product: the product runs in floating point.

    Fix: quantize behind that operator, so that DequantizeLinear feeds the product.
    """
    data, weight = product.data, product.weight
    for operand, other in ((data, weight), (weight, data)):
        if operand.dq is not None or (other.dq is None and not operand.constant):
            continue
        dq, between = distant_dq(product.scope, operand.name) or (None, None)
        if dq is None or between is None or product.scope.is_constant(dq.source) != operand.constant:
            continue
        per_input = between.is_op("Mul") and factor_shape(between)[-1:] == (1,)
        if other.dq is not None or not (dq.per_tensor and per_input):  # that one a weight-only kernel takes in
            yield f"{between.op} {between.label}"


@rule("QV402", "one-side-only", Severity.WARNING, products)
def one_side_only(product: Product) -> Iterator[str]:
    """the activation is quantized but the other operand is not: the product runs in floating point.

    Fix: quantize both operands, or drop the pair on the activation.
    """
    operands = (product.data, product.weight)
    quantized = [o for o in operands if o.dq is not None and not o.constant]
    floating = [o for o in operands if o.dq is None and distant_dq(product.scope, o.name) is None]
    if len(quantized) == 1 and len(floating) == 1:
        yield f"{floating[0].name} is floating point"


@rule("QV403", "requantized", Severity.ERROR, quantizers)
def requantized(quantizer: Quantizer) -> Iterator[str]:
    """codes of one format are requantized to another with the same scale: TensorRT takes the pair for nothing and
    fails.

    Fix: quantize once; between two formats let the scales differ, in value or in shape.
    """
    before = find_dq(quantizer.scope, quantizer.source)[0] if quantizer.quantizes else None
    if before is None or 0 in (before.codes, quantizer.codes) or before.blocked:
        return
    if before.codes != quantizer.codes and _same_scale(before, quantizer):
        yield f"{type_name(before.codes)} to {type_name(quantizer.codes)}"


@rule("QV404", "int4-normalised-activation", Severity.ERROR, quantizers)
def int4_normalised(quantizer: Quantizer) -> Iterator[str]:
    """INT4 codes of an activation that is divided by its own range, where the range is used again: TensorRT fails to
    generate the kernel.

    Fix: keep the 4-bit grid in an int8 container: Clip, then QuantizeLinear to int8.
    """
    if quantizer.quantizes and quantizer.codes == INT4:
        node = quantizer.scope.producer(quantizer.source)
        while node is not None and node.is_op("Clip", "Cast", "Identity", "Reshape"):
            node = node.scope.producer(node.input(0))
        if node is not None and _reused_divisor(node):
            yield ""


def _same_scale(first: Quantizer, second: Quantizer) -> bool:
    if first.scale == second.scale:
        return True
    a, b = first.scope.value(first.scale), second.scope.value(second.scale)
    return a is not None and b is not None and a.shape == b.shape and bool(np.all(a == b))


def _reused_divisor(node: Node) -> bool:
    if not node.is_op("Div", "Mul"):
        return False
    for name in [node.input(1)] if node.op == "Div" else [node.input(0), node.input(1)]:
        shape = node.scope.shape(name)
        ranges = shape is not None and len(shape) > 0 and shape[-1] == 1
        if ranges and not node.scope.is_constant(name) and len(node.scope.consumers(name)) > 1:
            return True
        maker = node.scope.producer(name)
        if ranges and maker is not None and maker.is_op("Reciprocal"):
            return len(maker.scope.consumers(maker.input(0))) > 1
    return False
