"""Rules on which scales a product may have, and which lose its low-bit kernel."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from onnx import TensorProto

from qvggt.export.lint.rule import RTX, Place, Severity, rule
from qvggt.onnx_view.graph import Model, Node, Scope
from qvggt.onnx_view.product import Product, products
from qvggt.onnx_view.quantizer import FP4, FP8, INT4, INT8, SUPPORTED, type_name

EIGHT_BIT = (INT8, FP8)
FLOAT16_MAX = 65504
LARGEST: dict[int, int] = {INT8: 128, FP8: 448}
MOVED = ("Add", "Reshape", "Cast", "Identity")  # that a Split behind a product is moved in front of; a Mul stops it
FP8_WINDOW = 32  # positions of the largest convolution that has an FP8 kernel
FOUR_BIT = 7  # largest code of a 4-bit grid; with it sums of VGGT's widths stay far below float16's limit


@rule("QV301", "block-scales-with-quantized-activations", Severity.ERROR, products)
def block_scales(product: Product) -> Iterator[str]:
    """block scales together with quantized activations: TensorRT builds one integer product over all blocks, in which
    their scales cannot act, or fails to build.

    Fix: use one scale per output channel, or leave the activations in floating point.
    """
    if product.quantized and not product.data.constant and FP4 not in (product.data.codes, product.weight.codes):
        for operand in (product.data, product.weight):
            if operand.dq is not None and operand.dq.blocked:
                yield f"{operand.name}: {operand.dq.describe()}"


@rule("QV302", "scales-along-the-sum", Severity.WARNING, products)
def scales_along_the_sum(product: Product) -> Iterator[str]:
    """a scale per index of the axis that is summed over cannot be taken out of the sum: the product runs in floating
    point.

    Fix: use one scale per output channel for weights and one scale for activations.
    """
    for operand in (product.data, product.weight) if product.quantized else ():
        if operand.dq is not None and operand.along_sum and not operand.dq.blocked:
            yield f"{operand.name}: {operand.dq.describe()}"


@rule("QV303", "mixed-formats", Severity.ERROR, products)
def mixed_formats(product: Product) -> Iterator[str]:
    """the operands have formats that TensorRT has no product for: it does not build.

    Fix: use one format for both; 4-bit weights with 8-bit activations need a scale per channel, not one scale.
    """
    data, weight = product.data, product.weight
    if not product.quantized or not {data.codes, weight.codes} <= SUPPORTED or data.codes == weight.codes:
        return
    if any(o.dq is not None and o.dq.codes == FP4 and o.dq.block_size for o in (data, weight)):
        return  # that builds, see QV317
    integers = {data.codes, weight.codes} == {INT8, INT4}
    if not integers or product.op == "Conv" or (weight.dq is not None and weight.dq.per_tensor):
        yield f"{type_name(data.codes)} times {type_name(weight.codes)}"


@rule("QV304", "int4-weights-without-blocks", Severity.WARNING, products, RTX)
def int4_without_blocks(product: Product) -> Iterator[str]:
    """INT4 weights with floating-point activations and one scale per channel or tensor: the whole weight is expanded at
    every run.

    Fix: give them block scales along the inputs, of 128 or 64; repeated scales will do.
    """
    dq = product.weight.dq
    if product.weight_only and product.is_gemm and dq is not None and dq.codes == INT4 and not dq.blocked:
        yield dq.describe()


@rule("QV309", "int4-weights-shared", Severity.WARNING)
def int4_shared(model: Model) -> Iterator[Place]:
    """INT4 weights with floating-point activations in several products: the weight is expanded at every run.

    Fix: give each product a DequantizeLinear whose scale has a name of its own (an Identity of it will do; the codes
    are stored once), and activations of rank 3.
    """
    uses: dict[tuple[int, str, str], list[Product]] = {}
    for product in products(model):
        dq = product.weight.dq
        if product.weight_only and product.is_gemm and dq is not None and dq.codes == INT4 and dq.blocked:
            uses.setdefault((id(dq.scope), dq.source, dq.scale), []).append(product)
    for (_, codes, _), readers in uses.items():
        for reader in readers if len(readers) > 1 else ():
            yield Place(reader.label, reader.op, f"{codes}: {len(readers)} products")


@rule("QV305", "int8-weights-in-blocks", Severity.WARNING, products)
def int8_in_blocks(product: Product) -> Iterator[str]:
    """8-bit weights with block scales and floating-point activations: the whole weight is expanded at every run.

    Fix: use one scale per output channel.
    """
    dq = product.weight.dq
    if product.weight_only and dq is not None and dq.codes in EIGHT_BIT and dq.blocked:
        yield dq.describe()


@rule("QV306", "convolution-format", Severity.ERROR, products)
def convolution_format(product: Product) -> Iterator[str]:
    """a convolution of 4-bit operands: it does not build.

    Fix: use INT8 for both, or leave its activations in floating point.
    """
    if not product.is_gemm and product.quantized and product.data.codes == product.weight.codes == INT4:
        yield ""


@rule("QV307", "convolution-kernel", Severity.WARNING, products)
def convolution_kernel(product: Product) -> Iterator[str]:
    """this convolution runs in floating point, its weight is expanded at every run.

    Fix: quantize both operands of a Conv to INT8, or to FP8 where its window has no more than 32 positions, or neither;
    leave ConvTranspose in floating point.
    """
    if product.is_gemm or product.weight.dq is None:
        return
    if product.node.op == "ConvTranspose" or product.weight_only:
        yield "weight only" if product.weight_only else ""
    elif product.quantized and product.weight.codes == FP8:
        window = (product.weight_shape or ())[2:]
        if prod(window) > FP8_WINDOW:
            yield f"FP8, a window of {'x'.join(map(str, window))}"


@rule("QV310", "split-into-heads", Severity.WARNING, products)
def split_into_heads(product: Product) -> Iterator[str]:
    """a weight with a scale per channel whose product is split and then reshaped and transposed, as queries, keys and
    values are into heads: TensorRT cuts the weight to fit the parts, and expands it at every run.

    Fix: give the weight one scale and multiply by scale/largest after the product, or reshape and transpose before the
    split.
    """
    dq = product.weight.dq
    if not product.quantized or not product.is_gemm or not product.weight.constant:
        return
    if dq is None or dq.per_tensor or dq.blocked or product.weight.along_sum:
        return
    shape, length = product.weight_shape, product.sum_length
    if shape is None or length is None or prod(shape) != 3 * length**2:  # queries, keys and values of a self-attention
        return
    cuts = [node for node in _behind(product.node) if node.is_op("Split", "Slice")]
    if cuts and all(_into_heads(cut.scope, part) for cut in cuts for part in cut.outputs):
        yield f"{cuts[0].op} {cuts[0].label}"


def _into_heads(scope: Scope, part: str) -> bool:
    shaped = [node for node in scope.consumers(part) if node.is_op("Reshape")]
    return any(reader.is_op("Transpose") for node in shaped for reader in scope.consumers(node.outputs[0]))


def _behind(node: Node) -> Iterator[Node]:
    """The readers of a node's output, and theirs beyond what a cut is moved in front of."""
    for reader in node.scope.consumers(node.outputs[0]):
        yield reader
        computed = [name for name in reader.inputs if name and not reader.scope.is_constant(name)]
        if reader.is_op(*MOVED) and len(computed) == 1:
            yield from _behind(reader)


@rule("QV308", "float16-overflow", Severity.ERROR, products)
def float16_overflow(product: Product) -> Iterator[str]:
    """an 8-bit product with a weight scale per channel in a float16 network: TensorRT stores the raw sum in float16 and
    scales it afterwards, so sums above 65504 become infinite.

    Fix: give the weight one scale (the largest) and multiply by scale/largest after the product, or use bfloat16.
    """
    data, weight = product.data, product.weight
    if not product.quantized or not product.is_gemm or data.codes not in LARGEST or weight.codes not in LARGEST:
        return
    if product.scope.dtype(product.node.outputs[0]) != TensorProto.FLOAT16:
        return
    if weight.dq is None or weight.dq.per_tensor or weight.dq.blocked or weight.along_sum:
        return
    if weight.dq.scope.dtype(weight.dq.scale) == TensorProto.FLOAT:  # then the sum is stored in float32
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
    tensor = dq.scope.constant(dq.source)
    largest = None if tensor is None else dq.scope.values.largest_int8(tensor)
    return LARGEST[product.weight.codes] if largest is None else largest
