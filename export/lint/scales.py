"""Rules on scales: constant, positive, in whole blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qvggt.export.lint.finding import Severity
from qvggt.export.lint.rule import Place, rule
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.quantizer import FP4, INT4, Quantizer, quantizers


@rule(
    "QV201",
    "scale-computed",
    Severity.WARNING,
    reason="the scale is computed when the model runs: TensorRT quantizes and dequantizes in floating point, no "
    "low-bit product is built",
    fix="use a constant scale; divide a token by its range first and multiply the range back after the product",
)
def scale_computed(model: Model) -> Iterator[Place]:
    for quantizer in quantizers(model):
        if _computed(quantizer) and quantizer.node.scope.rank(quantizer.scale) == 0:
            yield Place(quantizer.node.label, quantizer.node.op, f"scale {quantizer.scale}")


@rule(
    "QV202",
    "scale-per-token",
    Severity.ERROR,
    reason="a scale with an axis is computed when the model runs: TensorRT refuses the model",
    fix="divide each token by its range, quantize with a constant scale, multiply the range back after the product",
)
def scale_per_token(model: Model) -> Iterator[Place]:
    for quantizer in quantizers(model):
        if _computed(quantizer) and quantizer.node.scope.rank(quantizer.scale) != 0:
            yield Place(quantizer.node.label, quantizer.node.op, f"scale {quantizer.scale}")


@rule(
    "QV203",
    "scale-value",
    Severity.ERROR,
    reason="a scale that is zero, negative or no number",
    fix="give an all-zero channel any positive scale; a small one may have become zero in float16",
)
def scale_value(model: Model) -> Iterator[Place]:
    for quantizer in quantizers(model):
        value = quantizer.node.scope.value(quantizer.scale)
        if value is None or value.dtype.kind not in "fV":  # V: bfloat16 and float8 as numpy shows them
            continue
        numbers = value.astype(np.float32)
        fine = np.isfinite(numbers)
        stored = not quantizer.quantizes and quantizer.node.scope.is_constant(quantizer.source)
        if not (stored and (quantizer.blocked or quantizer.codes == INT4)):  # those may be zero or negative
            fine &= numbers > 0
        if not fine.all():
            wrong = numbers[~fine]
            yield Place(quantizer.node.label, quantizer.node.op, f"{wrong.size} of {numbers.size}, first {wrong[0]:g}")


@rule(
    "QV204",
    "partial-block",
    Severity.ERROR,
    reason="the blocks do not divide the axis evenly: TensorRT refuses the model, or cuts the axis into equal "
    "blocks of another size and computes something else",
    fix="choose a block size that divides the axis, if need be a smaller one with repeated scales",
)
def partial_block(model: Model) -> Iterator[Place]:
    for quantizer in quantizers(model):
        shape, axis = quantizer.node.scope.shape(quantizer.source), quantizer.positive_axis
        if not quantizer.block_size or shape is None or axis is None or axis >= len(shape):
            continue
        length, blocks = shape[axis], quantizer.blocks
        if length and blocks and blocks > 1 and length != blocks * quantizer.block_size:
            yield Place(quantizer.node.label, quantizer.node.op, f"{length} in blocks of {quantizer.block_size}")


def _computed(quantizer: Quantizer) -> bool:
    return quantizer.codes != FP4 and not quantizer.node.scope.is_constant(quantizer.scale)
