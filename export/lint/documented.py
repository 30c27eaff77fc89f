"""Rules on INT4 and FP4 as NVIDIA documents them for TensorRT itself, where TensorRT-RTX builds more.

docs/tensorrt.md has the addresses. TensorRT itself was not run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qvggt.export.lint.rule import PROPER, Severity, rule
from qvggt.onnx_view.documented import activation, other_scales
from qvggt.onnx_view.product import Product, products, stored_chain
from qvggt.onnx_view.quantizer import FLOAT_TYPES, FP4, INT4, Quantizer, as_quantizer, quantizers


@rule("QV801", "int4-blocks", Severity.ERROR, quantizers, PROPER, documented=True)
def int4_blocks(quantizer: Quantizer) -> Iterator[str]:
    """INT4 weights whose scales do not stand for blocks of 64 or 128 along one of the last two axes: TensorRT takes no
    others.

    Fix: use blocks of 64 or 128 with repeated scales, or int8 codes; qvggt export --backend tensorrt writes them.
    """
    if why := other_scales(quantizer):
        yield why


@rule("QV802", "int4-activations", Severity.ERROR, quantizers, PROPER, documented=True)
def int4_activations(quantizer: Quantizer) -> Iterator[str]:
    """INT4 codes of an activation: TensorRT takes INT4 for weights only.

    Fix: keep the 4-bit grid in an int8 container: Clip, then QuantizeLinear to int8.
    """
    if activation(quantizer):
        yield ""


@rule("QV803", "int4-requantized", Severity.WARNING, products, PROPER)
def int4_requantized(product: Product) -> Iterator[str]:
    """INT4 weights that become INT8 or FP8 codes for their product: TensorRT-RTX builds it, NVIDIA documents INT4
    weights under floating-point activations only.

    Fix: if TensorRT refuses it, store codes of the product (qvggt export --storage int8, or --bits fp8).
    """
    chain = [found for node in stored_chain(product.weight) if (found := as_quantizer(node)) is not None]
    if product.weight.constant and len(chain) > 1 and chain[-1].codes == INT4:
        yield ""


@rule("QV804", "int4-under-float32", Severity.WARNING, products, PROPER, documented=True)
def int4_float32(product: Product) -> Iterator[str]:
    """INT4 weights in a float32 product: NVIDIA documents their kernels for 16-bit activations.

    Fix: export with --precision fp16 or bf16.
    """
    dq = product.weight.dq
    if product.weight_only and product.is_gemm and dq is not None and dq.codes == INT4:
        kind = FLOAT_TYPES.get(product.scope.dtype(product.weight.name))
        if kind not in ("fp16", "bf16"):
            yield kind or "unknown type"


@rule("QV805", "scale-not-positive", Severity.ERROR, quantizers, PROPER, documented=True)
def scale_not_positive(quantizer: Quantizer) -> Iterator[str]:
    """a stored weight with a scale that is not positive: TensorRT takes positive ones only.

    Fix: give an all-zero block any positive scale; a small one may have become zero in float16.
    """
    value = quantizer.scope.value(quantizer.scale)
    if value is None or value.dtype.kind not in "fV" or quantizer.quantizes:
        return
    stored = quantizer.scope.is_constant(quantizer.source)
    if stored and (quantizer.blocked or quantizer.codes == INT4):  # QV203 looks at the others
        wrong = value.astype(np.float32)[~(value.astype(np.float32) > 0)]
        if wrong.size:
            yield f"{wrong.size} of {value.size}, first {wrong[0]:g}"


@rule("QV806", "fp4-standard-operators", Severity.WARNING, quantizers, PROPER, documented=True)
def fp4_standard(quantizer: Quantizer) -> Iterator[str]:
    """FP4 activations whose block scales are computed by standard operators: NVIDIA documents TRT_FP4DynamicQuantize
    for them, and constant scales for QuantizeLinear.

    Fix: if TensorRT refuses it, use FP8 (qvggt export --bits fp8), or TensorRT-RTX, which builds it.
    """
    if quantizer.codes == FP4 and quantizer.quantizes and not quantizer.scope.is_constant(quantizer.scale):
        yield ""
