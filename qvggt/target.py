"""What an exported file is for."""

from __future__ import annotations

from enum import Enum


class Target(str, Enum):
    """What the file is for. A target changes where scales sit and the float type, never what a linear computes.

    cpu: per-row scales of 8- and 6-bit weights inside the product, what ONNX Runtime and OpenVINO turn into INT8
    kernels with one output pass. tensorrt: one weight scale inside the product and the row scales after it, because
    TensorRT keeps a per-row product's raw accumulator in fp16, where 8-bit sums overflow; static w4a4 has INT4
    activations too.
    """

    CPU = "cpu"
    TENSORRT = "tensorrt"
