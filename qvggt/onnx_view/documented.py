"""INT4 as NVIDIA documents it for TensorRT 10 and 11: weights only, a scale per block of 64 or 128.

https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html: INT4 needs scales
per block, of 64 or 128, along one of the last two dimensions, and is for weights. TensorRT-RTX builds more than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.quantizer import INT4, Quantizer, quantizers
from qvggt.target import INT4_BLOCKS


def int4_block(span: int, length: int) -> int | None:
    """The block to store `length` inputs in whose scales are equal over `span` of them (a divisor of it), two blocks
    rather than one; None where no block that TensorRT documents fits."""
    sizes = [size for size in INT4_BLOCKS if span % size == 0]
    return next((size for size in sizes if length >= 2 * size), sizes[-1] if sizes else None)


def activation(quantizer: Quantizer) -> bool:
    """Whether a Q or DQ holds INT4 codes that are computed when the model runs."""
    return quantizer.codes == INT4 and not quantizer.scope.is_constant(quantizer.source)


def other_scales(quantizer: Quantizer) -> str:
    """Which scales INT4 weights have that are none of those, "" for the documented ones and for other codes."""
    if quantizer.codes != INT4 or activation(quantizer):
        return ""
    shape, axis = quantizer.scope.shape(quantizer.source), quantizer.positive_axis
    length = None if shape is None or axis is None or axis >= len(shape) else shape[axis]
    if quantizer.block_size not in INT4_BLOCKS:
        return quantizer.describe()
    if shape is not None and axis is not None and axis < len(shape) - 2:
        return f"{quantizer.describe()} of {len(shape)}"
    return f"{length} in blocks of {quantizer.block_size}" if length and length % quantizer.block_size else ""


def undocumented_int4(model: Model) -> Sequence[str]:
    """One text for every Q or DQ of INT4 that TensorRT does not document."""
    return tuple(_undocumented(model))


def _undocumented(model: Model) -> Iterator[str]:
    for quantizer in quantizers(model):
        if activation(quantizer):
            yield f"{quantizer.label}: activations"
        elif why := other_scales(quantizer):
            yield f"{quantizer.label}: {why}"
