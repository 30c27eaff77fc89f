"""The rule on integer sums that do not fit float16."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import TensorProto

from qvggt.export.lint.finding import Severity
from qvggt.export.lint.rule import rule
from qvggt.onnx_view.product import Product, products
from qvggt.onnx_view.quantizer import FP8, INT8

FLOAT16_MAX = 65504
LARGEST: dict[int, int] = {INT8: 128, FP8: 448}
FOUR_BIT = 7  # largest code of a 4-bit grid; with it sums of VGGT's widths stay far below float16's limit


@rule("QV308", "float16-overflow", Severity.ERROR, products)
def float16_overflow(product: Product) -> Iterator[str]:
    """an 8-bit product with a weight scale per channel in a float16 network: TensorRT stores the raw sum in float16 and
    scales it afterwards, so sums above 65504 become infinite.

    Fix: give the weight one scale (the largest) and multiply by scale/largest after the product, or use bfloat16.
    """
    data, weight = product.data, product.weight
    if not product.quantized or not product.is_gemm or data.codes not in LARGEST or weight.codes not in LARGEST:
        return
    if product.node.scope.dtype(product.node.outputs[0]) != TensorProto.FLOAT16:
        return
    if weight.dq is None or weight.dq.per_tensor or weight.dq.blocked or weight.along_sum:
        return
    if weight.dq.node.scope.dtype(weight.dq.scale) == TensorProto.FLOAT:  # then the sum is stored in float32
        return
    length, largest = product.sum_length, _largest_code(product)
    if length is not None and length * LARGEST[data.codes] * largest <= FLOAT16_MAX:
        return
    if data.codes == INT8 and largest <= FOUR_BIT:
        return
    yield f"sums of {length or 'an unknown number of'} terms"


def _largest_code(product: Product) -> int:
    """Of the stored weight when it can be read, else of its type."""
    dq = product.weight.dq
    assert dq is not None
    tensor = dq.node.scope.constant(dq.source)
    found = None if tensor is None else dq.node.scope.values.largest_int8(tensor)
    return LARGEST[product.weight.codes] if found is None else found
