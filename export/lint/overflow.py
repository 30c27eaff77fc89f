"""The rule on integer sums that do not fit float16."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import TensorProto

from qvggt.export.lint.finding import Severity
from qvggt.export.lint.rule import Place, rule
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.product import Product, products
from qvggt.onnx_view.quantizer import FP8, INT8

FLOAT16_MAX = 65504
LARGEST: dict[int, int] = {INT8: 128, FP8: 448}
FOUR_BIT = 7  # largest code of a 4-bit grid; with it sums of VGGT's widths stay far below float16's limit


@rule(
    "QV308",
    "float16-overflow",
    Severity.ERROR,
    reason="an 8-bit product with a weight scale per channel in a float16 network: TensorRT stores the raw sum in "
    "float16 and scales it afterwards, so sums above 65504 become infinite",
    fix="give the weight one scale (the largest) and multiply by scale/largest after the product, or use bfloat16",
)
def float16_overflow(model: Model) -> Iterator[Place]:
    for product in products(model):
        data, weight = product.data, product.weight
        if not product.quantized or not product.is_gemm or data.codes not in LARGEST or weight.codes not in LARGEST:
            continue
        if product.node.scope.dtype(product.node.outputs[0]) != TensorProto.FLOAT16:
            continue
        if weight.dq is None or weight.dq.per_tensor or weight.dq.blocked or weight.along_sum:
            continue
        if weight.dq.node.scope.dtype(weight.dq.scale) == TensorProto.FLOAT:  # then the sum is stored in float32
            continue
        length, largest = product.sum_length, _largest_code(product)
        if length is not None and length * LARGEST[data.codes] * largest <= FLOAT16_MAX:
            continue
        if data.codes == INT8 and largest <= FOUR_BIT:
            continue
        yield Place(product.node.label, product.node.op, f"sums of {length or 'an unknown number of'} terms")


def _largest_code(product: Product) -> int:
    """Of the stored weight when it can be read, else of its type."""
    dq = product.weight.dq
    assert dq is not None
    tensor = dq.node.scope.constant(dq.source)
    found = None if tensor is None else dq.node.scope.values.largest_int8(tensor)
    return LARGEST[product.weight.codes] if found is None else found
