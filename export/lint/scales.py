"""Rules on scales: constant, positive, in whole blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qvggt.export.lint.rule import RTX, Severity, rule
from qvggt.onnx_view.quantizer import FP4, INT4, Quantizer, quantizers


@rule("QV201", "scale-computed", Severity.WARNING, quantizers, documented=True)
def scale_computed(quantizer: Quantizer) -> Iterator[str]:
    """the scale is computed when the model runs: TensorRT quantizes and dequantizes in floating point, no low-bit
    product is built.

    Fix: use a constant scale; divide a token by its range first and multiply the range back after the product.
    """
    if _computed(quantizer) and quantizer.scope.rank(quantizer.scale) == 0:
        yield f"scale {quantizer.scale}"


@rule("QV202", "scale-per-token", Severity.ERROR, quantizers, documented=True)
def scale_per_token(quantizer: Quantizer) -> Iterator[str]:
    """a scale with an axis is computed when the model runs: TensorRT refuses the model.

    Fix: divide each token by its range, quantize with a constant scale, multiply the range back after the product.
    """
    if _computed(quantizer) and quantizer.scope.rank(quantizer.scale) != 0:
        yield f"scale {quantizer.scale}"


@rule("QV203", "scale-value", Severity.ERROR, quantizers)
def scale_value(quantizer: Quantizer) -> Iterator[str]:
    """a scale that is zero, negative or no number.

    Fix: give an all-zero channel any positive scale; a small one may have become zero in float16.
    """
    value = quantizer.scope.value(quantizer.scale)
    if value is None or value.dtype.kind not in "fV":  # V: bfloat16 and float8 as numpy shows them
        return
    numbers = value.astype(np.float32)
    fine = np.isfinite(numbers)
    stored = not quantizer.quantizes and quantizer.scope.is_constant(quantizer.source)
    if not (stored and (quantizer.blocked or quantizer.codes == INT4)):  # those may be zero or negative
        fine &= numbers > 0
    if not fine.all():
        wrong = numbers[~fine]
        yield f"{wrong.size} of {numbers.size}, first {wrong[0]:g}"


@rule("QV204", "partial-block", Severity.ERROR, quantizers)
def partial_block(quantizer: Quantizer) -> Iterator[str]:
    """the blocks do not divide the axis evenly: TensorRT refuses the model, or cuts the axis into equal blocks of
    another size and computes something else.

    Fix: choose a block size that divides the axis, if need be a smaller one with repeated scales.
    """
    shape, axis = quantizer.scope.shape(quantizer.source), quantizer.positive_axis
    if not quantizer.block_size or shape is None or axis is None or axis >= len(shape):
        return
    length, blocks = shape[axis], quantizer.blocks
    if length and blocks and blocks > 1 and length != blocks * quantizer.block_size:
        yield f"{length} in blocks of {quantizer.block_size}"


@rule("QV205", "block-axis", Severity.ERROR, quantizers, RTX)
def block_axis(quantizer: Quantizer) -> Iterator[str]:
    """blocks along another axis than the last two, as along the channels of a convolution: TensorRT refuses the model.

    Fix: use one scale per channel.
    """
    rank, axis = quantizer.scope.rank(quantizer.source), quantizer.positive_axis
    if quantizer.block_size and rank is not None and axis is not None and axis < rank - 2:
        yield f"{quantizer.describe()} of {rank}"


def _computed(quantizer: Quantizer) -> bool:
    return quantizer.codes != FP4 and not quantizer.scope.is_constant(quantizer.scale)
