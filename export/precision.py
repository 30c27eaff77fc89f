"""Float types of an exported network, and what has to stay fp32 inside a half-precision one.

A half-precision network keeps its weights and the tensors between kernels in fp16 or bf16. Fp32 islands inside it, all
of which TensorRT fuses into the kernels around them: LayerNorm, the choice of quantized codes and the scales after an
integer product, softmax (inside the attention kernel), the patch convolution, the camera head, the last convolution
and the exp/expm1 tails of the dense heads. Inputs and outputs of the file are fp32 whatever the type.

Nothing is imported for the names alone, so that a job refuses a wrong one at once.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from qvggt.errors import QvggtError
from qvggt.quant.scheme import Scheme

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class Precision(str, Enum):
    """Float type of a network or of a part of it."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def onnx(self) -> int:
        """TensorProto element type."""
        from onnx import TensorProto

        return int({"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[self.value])

    @property
    def torch(self) -> torch.dtype:
        import torch

        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.value]

    @property
    def numpy(self) -> np.dtype[np.generic]:
        import ml_dtypes
        import numpy as np

        return np.dtype({"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}[self.value])

    @property
    def limit(self) -> float:
        """Largest finite value: 65504 for fp16."""
        import torch

        return float(torch.finfo(self.torch).max)

    @property
    def epsilon(self) -> float:
        """Largest relative rounding error of a normal number: 2^-11 for fp16, 2^-8 for bf16."""
        import torch

        return float(torch.finfo(self.torch).eps) / 2


def rounded(name: str, array: NDArray[np.floating], precision: Precision) -> NDArray[np.generic]:
    """fp32 values rounded to half-even in `precision`; QvggtError for a finite value that would become infinite."""
    import numpy as np

    if precision is Precision.FP32:
        return array.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        result = array.astype(precision.numpy)
    if np.isfinite(array).all() and not np.isfinite(result).all():
        largest = float(np.abs(array).max())
        raise QvggtError(
            f"{name}: holds {largest:.3g}, {precision.value} ends at {precision.limit:.5g}; export with --precision "
            f"{'bf16' if precision is Precision.FP16 else 'fp32'}"
        )
    return result


def float_type(asked: str | None, scheme: Scheme, target: str) -> Precision:
    """What was asked for; else the type `bits` itself names, else fp16 for target "tensorrt" and fp32 for "cpu".

    TensorRT fuses attention into one kernel in fp16 and bf16 only; of the two, fp16 keeps three bits more. QvggtError
    for an unknown name, and for one that contradicts the scheme's bits fp16 or bf16.
    """
    if asked is None:
        named = scheme.bits in [p.value for p in Precision]
        return Precision(scheme.bits if named else "fp16" if target == "tensorrt" else "fp32")
    if asked not in [p.value for p in Precision]:
        raise QvggtError(f"precision {asked!r}: expected one of {', '.join(p.value for p in Precision)}")
    if scheme.float_type not in ("fp32", asked):
        raise QvggtError(f"precision {asked}: contradicts bits {scheme.bits}; leave one of them out")
    return Precision(asked)


def check_fused(target: str, precision: Precision) -> None:
    """QvggtError unless ONNX Runtime's attention operator fits such a file."""
    if target != "cpu" or precision is not Precision.FP32:
        raise QvggtError(
            f"fused attention: is for --target cpu in fp32, got {target} in {precision.value}; "
            "TensorRT fuses the standard operators by itself"
        )


def check_quantized(target: str, precision: Precision, fused: bool) -> None:
    """QvggtError where a file of quantized attention would store every score and gain nothing."""
    if target == "tensorrt" and precision is Precision.FP32:
        raise QvggtError(
            "attention fp8: TensorRT fuses it in fp16 and bf16 networks only, in fp32 it stores all scores; export "
            "with --precision fp16 or bf16, or calibrate without --attention"
        )
    if fused:
        raise QvggtError(
            "fused attention: ONNX Runtime's and OpenVINO's operator takes no fp8; leave --fused-attention out, or "
            "calibrate without --attention"
        )
