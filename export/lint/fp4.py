"""Rules on FP4 (NVFP4: E2M1 codes, a scale in FP8 for every 16 of them) and on microscaling formats."""

from __future__ import annotations

from collections.abc import Iterator

from qvggt.export.lint.rule import Severity, nodes, rule
from qvggt.onnx_view.graph import Node
from qvggt.onnx_view.product import Operand, Product, products, scale_codes
from qvggt.onnx_view.quantizer import FP4, FP4_QUANTIZE, FP8, TRT_DOMAINS, Quantizer, quantizers, type_name

BLOCK = 16  # codes under one scale: all that the kernel knows
RANKS = (2, 3)  # of what TensorRT's own operator quantizes
MICROSCALING = frozenset({"TRT_MXFP8DynamicQuantize", "TRT_MXFP8QuantizeLinear", "TRT_MXFP8DequantizeLinear"})


@rule("QV311", "fp4-scales", Severity.WARNING, products)
def fp4_scales(product: Product) -> Iterator[str]:
    """block scales of FP4 codes that are not FP8 codes times one stored number: the product runs in floating point.

    Fix: quantize the block scales to FP8 with one constant scale for the tensor, and dequantize them in front of the
    codes' Q and DQ; move scales per row behind the product.
    """
    for operand, dq in _fp4(product) if product.quantized else ():
        scales = scale_codes(dq)
        if not dq.block_size or _constant_activation(operand):  # QV314 and QV316 look at those
            continue
        if scales is None:
            yield f"{operand.name}: scale {dq.scale}"
        elif scales.codes == FP8 and (not scales.per_tensor or not scales.scope.is_constant(scales.scale)):
            yield f"{operand.name}: scale {scales.scale} of its scales"


@rule("QV312", "fp4-blocks-across", Severity.WARNING, products)
def fp4_blocks_across(product: Product) -> Iterator[str]:
    """blocks of FP4 codes along another axis than the one that is summed over: the product runs in floating point.

    Fix: let the blocks lie along the inputs of the weight, and along the last axis of the activation.
    """
    for operand, dq in _fp4(product) if product.quantized else ():
        if dq.blocked and operand.axis is not None and operand.axis != operand.reduced:
            yield f"{operand.name}: {dq.describe()}"


@rule("QV313", "fp4-block-size", Severity.ERROR, quantizers, documented=True)
def fp4_block_size(quantizer: Quantizer) -> Iterator[str]:
    """blocks of FP4 codes of another size than 16: TensorRT builds its kernel for blocks of 16 all the same and hands
    it another number of scales than it reads.

    Fix: use blocks of 16.
    """
    if quantizer.codes == FP4 and quantizer.block_size not in (0, BLOCK):
        yield quantizer.describe()


@rule("QV314", "fp4-without-blocks", Severity.ERROR, products)
def fp4_without_blocks(product: Product) -> Iterator[str]:
    """FP4 operands without block scales: TensorRT's builder crashes, of a convolution it refuses them.

    Fix: give both operands a scale in FP8 for every 16 inputs (NVFP4); use FP8 for convolutions.
    """
    sides = [dq for _, dq in _fp4(product)]
    if len(sides) == 2 and not any(dq.block_size for dq in sides):
        yield ", ".join(dq.describe() for dq in sides)


@rule("QV315", "fp4-weight-only", Severity.WARNING, products)
def fp4_weight_only(product: Product) -> Iterator[str]:
    """FP4 weights with floating-point activations: the whole weight is expanded at every run.

    Fix: quantize the activations to FP4 too, or store the weight in INT4 blocks.
    """
    if product.weight_only and product.is_gemm and product.weight.codes == FP4:
        yield ""


@rule("QV316", "fp4-constant-scale", Severity.WARNING, products)
def fp4_constant_scale(product: Product) -> Iterator[str]:
    """one FP4 operand without block scales, or an activation whose block scales are constants: the product runs in
    floating point.

    Fix: compute the activation's block scales at run time, and give both operands blocks.
    """
    sides = _fp4(product)
    if len(sides) == 2 and any(dq.block_size for _, dq in sides):
        for operand, dq in sides:
            if not dq.block_size or _constant_activation(operand):
                yield f"{operand.name}: {dq.describe()}"


@rule("QV317", "fp4-with-another-type", Severity.WARNING, products)
def fp4_mixed(product: Product) -> Iterator[str]:
    """one operand in FP4 blocks and the other in another low-bit format: the product runs in floating point.

    Fix: use FP4 for both operands, or FP8 or INT8 for both.
    """
    sides = _fp4(product)
    if product.quantized and len(sides) == 1 and sides[0][1].block_size:
        yield f"{sides[0][0].name} is FP4"


@rule("QV318", "fp4-scale-type", Severity.ERROR, quantizers)
def fp4_scale_type(quantizer: Quantizer) -> Iterator[str]:
    """the scales of FP4 codes have another float type than the values: TensorRT fails to build.

    Fix: cast the scales to the type of the values, or quantize in float32 and cast behind DequantizeLinear.
    """
    if quantizer.codes == FP4:
        values = quantizer.node.outputs[0] if not quantizer.quantizes else quantizer.source
        types = [quantizer.scope.dtype(name) for name in (quantizer.scale, values)]
        if 0 not in types and types[0] != types[1]:
            yield quantizer.scale


@rule("QV319", "fp4-dynamic-quantize", Severity.ERROR, nodes, documented=True)
def fp4_dynamic_quantize(node: Node) -> Iterator[str]:
    """a form of TRT_FP4DynamicQuantize that TensorRT refuses.

    Fix: quantize matrices of rank 2 or 3 in blocks of 16 that divide the axis.
    """
    if node.domain not in TRT_DOMAINS or node.op != FP4_QUANTIZE:
        return
    shape, axis, size = node.scope.shape(node.input(0)), node.integer("axis", -1), node.integer("block_size", BLOCK)
    if size != BLOCK:
        yield f"blocks of {size}"
    elif shape is not None and len(shape) not in RANKS:
        yield f"rank {len(shape)}"
    elif shape is not None and -len(shape) <= axis < len(shape) and (shape[axis] or 0) % BLOCK:
        yield f"{shape[axis]} in blocks of {BLOCK}"


@rule("QV320", "microscaling", Severity.WARNING, nodes)
def microscaling(node: Node) -> Iterator[str]:
    """MXFP8: TensorRT-RTX quantizes, dequantizes again, and multiplies in floating point.

    Fix: use FP8 with one scale, or NVFP4.
    """
    if node.domain in TRT_DOMAINS and node.op in MICROSCALING:
        yield ""


@rule("QV321", "fp4-scale-codes", Severity.ERROR, quantizers)
def fp4_scale_codes(quantizer: Quantizer) -> Iterator[str]:
    """block scales of FP4 codes that are codes of another type than FP8: TensorRT builds its kernel for scales in FP8
    all the same and hands it these.

    Fix: quantize the block scales to FP8.
    """
    scales = scale_codes(quantizer) if quantizer.codes == FP4 and quantizer.block_size else None
    if scales is not None and scales.codes not in (0, FP8):
        yield f"scale {quantizer.scale}, {type_name(scales.codes)}"


def _fp4(product: Product) -> list[tuple[Operand, Quantizer]]:
    """The operands that are FP4 codes, with their DQ."""
    return [(o, o.dq) for o in (product.data, product.weight) if o.dq is not None and o.dq.codes == FP4]


def _constant_activation(operand: Operand) -> bool:
    """Whether an activation's scale is a constant."""
    return not operand.constant and operand.dq is not None and operand.dq.scope.is_constant(operand.dq.scale)
