"""Grids: the values a number may take, and how it gets onto them.

Integer grids are here, floating-point ones in `float_grid`. All are symmetric with zero point 0 (TensorRT accepts
nothing else) and round half to even (torch.round and ONNX QuantizeLinear agree). Nobody outside counts bits: whoever
needs codes, a scale or bytes asks the grid.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Grid(ABC):
    """Codes a value is rounded to, in units of a scale: value ~ code * scale.

    name: such as "int8". lowest, highest: the extreme codes. storage_bits: of a code where codes are packed.
    container_bits, container: the smallest ONNX type that holds the codes, e.g. 4 and "INT4". headroom: what a range
    observed on data is multiplied with to become a constant one.
    """

    name: str
    lowest: float
    highest: float
    storage_bits: int
    container_bits: int
    container: str
    headroom: float = 1.0

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """What holds a code in a checkpoint and in a quantized module."""

    @abstractmethod
    def round(self, x: Tensor, scale: float | Tensor, straight_through: bool = False) -> Tensor:
        """Codes of x, held in x's dtype; a float `scale` is that of all of x, a tensor must broadcast.

        straight_through: the gradient of x / scale passes the rounding, and stops where a code saturates.
        """

    @abstractmethod
    def near_boundary(self, x: Tensor, width: float) -> Tensor:
        """bool: values of x, in units of the scale, less than `width` units from where the code changes."""

    @abstractmethod
    def pack(self, codes: Tensor) -> Tensor:
        """Codes of any shape as uint8 [ceil(count * storage_bits / 8)], row-major."""

    @abstractmethod
    def unpack(self, data: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Inverse of `pack`. Raises ValueError when `data` is not as long as the shape needs."""

    def scale(self, amax: Tensor) -> Tensor:
        """The scale that lays the grid over [-amax, amax], in amax's dtype."""
        return amax / amax.new_tensor(self.highest)  # CUDA divides by a number on the CPU as times its reciprocal

    @property
    def packed(self) -> bool:
        """Whether a checkpoint stores codes by `pack`; else in `dtype`."""
        return self.storage_bits < 8

    @property
    def unit_scale(self) -> float:
        """The scale of a range of 1, rounded to the fp32 value an ONNX constant holds."""
        import numpy as np

        return float(np.float32(1) / np.float32(self.highest))

    @property
    def fraction(self) -> float:
        """The power of two that brings every code into [-1, 1], where a half type holds codes exactly and no product
        of them overflows."""
        return 2.0 ** -math.ceil(math.log2(max(self.highest, -self.lowest)))

    def clip(self, x: Tensor, scale: Tensor) -> Tensor:
        """x held to the range of the codes: what an ONNX Clip does where the container is wider than the grid."""
        return x.clamp(self.lowest * scale, self.highest * scale)


@dataclass(frozen=True)
class IntegerGrid(Grid):
    """Signed integers: Q = 2^(bits - 1) - 1; [-Q - 1, Q] for activations, [-Q, Q] (`narrow`) for weights."""

    bits: int
    narrow: bool = False

    def __post_init__(self) -> None:
        q, container = 2 ** (self.bits - 1) - 1, 4 if self.bits <= 4 else 8
        facts = {"highest": q, "lowest": -q if self.narrow else -q - 1, "storage_bits": self.bits}
        facts |= {"name": f"int{self.bits}", "container_bits": container, "container": f"INT{container}"}
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.int8

    def round(self, x: Tensor, scale: float | Tensor, straight_through: bool = False) -> Tensor:
        x = x / (x.new_tensor(scale) if isinstance(scale, float) else scale.to(x))
        codes = x.round()
        if straight_through:
            codes = x + (codes - x).detach()  # exact: the difference of two floats within half a unit is
        return codes.clamp(self.lowest, self.highest)

    def near_boundary(self, x: Tensor, width: float) -> Tensor:
        return (((x - x.floor()) - 0.5).abs() < width) & (x.abs() < self.highest + 1)

    def pack(self, codes: Tensor) -> Tensor:
        import torch

        from qvggt.formats.packing import pack

        return torch.from_numpy(pack(codes.cpu().numpy(), self.bits))

    def unpack(self, data: Tensor, shape: tuple[int, ...]) -> Tensor:
        import torch

        from qvggt.formats.packing import unpack

        return torch.from_numpy(unpack(data.cpu().numpy(), shape, self.bits))
