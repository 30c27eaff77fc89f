"""Floating-point grids: E4M3 (FP8) and E2M1 (FP4), which grow coarser with the value instead of ending at a range.

No infinities: what lies beyond the largest value saturates, as ONNX QuantizeLinear and TensorRT do. Half to even, as
for integers: of two neighbours the one with the even mantissa.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvggt.formats.grid import Grid

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class FloatGrid(Grid):
    """A sign, `exponent_bits` and `mantissa_bits`; `highest` is the largest value that no code of an infinity or NaN
    takes away (OCP 8-bit floating point specification; OCP microscaling formats specification)."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    highest: float
    container: str

    headroom = 8.0  # of a constant range over what was observed: costs a grid that has exponents nothing

    def __post_init__(self) -> None:
        bits = 1 + self.exponent_bits + self.mantissa_bits
        facts = {"lowest": -self.highest, "storage_bits": bits, "container_bits": bits}
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    @property
    def smallest_normal(self) -> float:
        """Below it values are as far apart as at it."""
        return 2.0 ** (2 - 2 ** (self.exponent_bits - 1))

    @property
    def dtype(self) -> torch.dtype:
        """E4M3's own; it holds every value of E2M1 too, for which PyTorch has pairs only."""
        import torch

        return torch.float8_e4m3fn

    @property
    def packed(self) -> bool:
        return True

    @property
    def _least(self) -> int:
        return int(math.log2(self.smallest_normal))

    def _exponent(self, x: Tensor) -> Tensor:
        """Of the binade of x, int32; of what is below the normals, theirs."""
        import torch

        return torch.where(x == 0, self._least, torch.frexp(x).exponent - 1).clamp_min(self._least)

    def spacing(self, x: Tensor) -> Tensor:
        """Distance of neighbours at x, in units of the scale."""
        import torch

        exponents = {torch.float32: (torch.int32, 0xFF << 23), torch.float64: (torch.int64, 0x7FF << 52)}
        if x.dtype in exponents:  # three times as fast, the same numbers: of the bits of x those of its exponent
            integers, mask = exponents[x.dtype]
            binade = (x.detach().view(integers) & mask).view(x.dtype)
            return binade.clamp_min(self.smallest_normal) * 2.0**-self.mantissa_bits
        return torch.ldexp(torch.ones_like(x), self._exponent(x) - self.mantissa_bits)

    def round(self, x: Tensor, scale: float | Tensor, straight_through: bool = False) -> Tensor:
        import torch

        x = x / (x.new_tensor(scale) if isinstance(scale, float) else scale.to(x))
        x = x.clamp(self.lowest, self.highest)
        with torch.no_grad():
            spacing = self.spacing(x)
            codes = (x / spacing).round() * spacing
        return x + (codes - x).detach() if straight_through else codes  # exact: they are within a factor of two

    def near_boundary(self, x: Tensor, width: float) -> Tensor:
        steps = (x / self.spacing(x)).abs()
        return (((steps - steps.floor()) - 0.5).abs() < width) & (x.abs() < self.highest)

    def bits(self, codes: Tensor) -> Tensor:
        """The bit patterns of codes, uint8: sign, exponent, mantissa from the top of `storage_bits`."""
        import torch

        codes = codes.float()
        exponent = self._exponent(codes)
        # in steps of its own spacing a normal value has the leading one, which is one exponent more
        steps = torch.ldexp(codes.abs(), self.mantissa_bits - exponent)
        pattern = steps + (exponent - self._least) * 2**self.mantissa_bits
        sign = codes.signbit() * 2 ** (self.storage_bits - 1)
        return (pattern + sign).to(torch.uint8)

    def values(self, bits: Tensor) -> Tensor:
        """Inverse of `bits`, fp32."""
        import torch

        pattern = (bits & (2 ** (self.storage_bits - 1) - 1)).int()
        exponent = pattern >> self.mantissa_bits
        mantissa = (pattern & (2**self.mantissa_bits - 1)) + torch.where(exponent > 0, 2**self.mantissa_bits, 0)
        magnitude = torch.ldexp(mantissa.float(), exponent.clamp_min(1) - 1 + self._least - self.mantissa_bits)
        return torch.where(bits >= 2 ** (self.storage_bits - 1), -magnitude, magnitude)

    def pack(self, codes: Tensor) -> Tensor:
        import torch

        from qvggt.formats.packing import pack_halves

        flat = self.bits(codes.cpu().reshape(-1))
        return flat if self.storage_bits == 8 else torch.from_numpy(pack_halves(flat.numpy()))

    def unpack(self, data: Tensor, shape: tuple[int, ...]) -> Tensor:
        import torch

        count = math.prod(shape)
        if data.numel() != -(-count * self.storage_bits // 8):
            raise ValueError(f"{self.name} data of {data.numel()} bytes cannot hold shape {shape}")
        if self.storage_bits < 8:
            data = torch.stack([data & 15, data >> 4], -1).reshape(-1)[:count]
        return self.values(data).to(self.dtype).reshape(shape)


E4M3 = FloatGrid("e4m3", 4, 3, 448.0, "FP8")
E2M1 = FloatGrid("e2m1", 2, 1, 6.0, "FP4")
