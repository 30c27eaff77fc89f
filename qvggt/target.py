"""What an exported file is for."""

from __future__ import annotations

from enum import Enum

from qvggt.errors import QvggtError

INT4_BLOCKS = (128, 64)  # inputs of a row that share a scale: all that NVIDIA documents for TensorRT itself


class Target(str, Enum):
    """What the file is for. A target changes where scales sit, the float type and how codes are stored, never what a
    linear computes.

    cpu: per-row scales of 8- and 6-bit weights inside the product, what ONNX Runtime and OpenVINO turn into INT8
    kernels with one output pass. tensorrt: TensorRT-RTX; one weight scale inside the product and the row scales after
    it, because TensorRT keeps a per-row product's raw accumulator in fp16, where 8-bit sums overflow; static w4a4 has
    INT4 activations too. tensorrt-10: TensorRT itself, 10.12 and newer; as tensorrt, with INT4 only as NVIDIA documents
    it there: weights in blocks of 64 or 128 inputs (`qvggt.onnx_view.documented`).
    """

    CPU = "cpu"
    TENSORRT = "tensorrt"
    TENSORRT_10 = "tensorrt-10"

    @classmethod
    def of(cls, target: str, backend: str) -> Target:
        """The target that --target cpu|tensorrt and --backend rtx|tensorrt|trtexec mean; QvggtError where they
        contradict each other."""
        if backend == "rtx":
            return cls(target)
        if target != cls.TENSORRT:
            raise QvggtError(f"--backend {backend}: is for --target tensorrt, got {target}; leave one of them out")
        return cls.TENSORRT_10

    @property
    def words(self) -> tuple[str, str]:
        """(target, backend) as options name them."""
        return ("tensorrt", "tensorrt") if self is Target.TENSORRT_10 else (self.value, "rtx")

    def stores_int8(self, storage: str | None) -> bool:
        """Whether 4-bit weights of integer products are stored as int8, as --storage says ("int4", "int8" or None); by
        default for TensorRT itself, whose documents speak of INT4 under floating-point activations only."""
        return storage == "int8" or (storage is None and self is Target.TENSORRT_10)

    @property
    def label(self) -> str:
        """As messages say it: "cpu", "tensorrt" or "tensorrt (10.12 or newer, not RTX)"."""
        return "tensorrt (10.12 or newer, not RTX)" if self is Target.TENSORRT_10 else self.value
