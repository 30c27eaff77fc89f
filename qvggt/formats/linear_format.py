"""What a name such as "w4a4-dynamic" or "fp16" stands for, and everything that hangs on it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qvggt.formats.float_grid import E2M1, E4M3
from qvggt.formats.granularity import ROW, TENSOR, TOKEN, block
from qvggt.formats.grid import Grid, IntegerGrid
from qvggt.formats.tensor_format import TensorFormat

Activation = Literal["dynamic", "static"]

SCALE_BYTES = 4
FLOAT_BITS = 16  # of activations that are not quantized, in a network fast enough to quantize its weights for
WIDE = "w8a8-dynamic"  # of layers that bear no less
CONV_BITS = 8  # of the input and the output of a convolution (qvggt/quant/conv.py says why)


@dataclass(frozen=True)
class Format(ABC):
    """bits: the name as --bits and schemes write it, without the activation mode. floor_db: SQNR an exported network
    has to reach against its reference. ladder: what a part may get in a search for a bit budget that starts here, from
    cheap to exact, as schemes write it; empty where there is nothing to choose. block_of: the name of which this is a
    variant with another block, which --block chooses."""

    bits: str
    floor_db: float
    ladder: tuple[str, ...] = ()
    block_of: str | None = None

    @property
    def mode(self) -> Activation | None:
        """Where the ranges of quantized activations come from; None where there is nothing to choose."""
        return None

    @property
    def name(self) -> str:
        """The canonical name, unique in the table: "w4a4-dynamic", "w4a16", "fp16"."""
        return self.bits if self.mode is None else f"{self.bits}-{self.mode}"

    @property
    @abstractmethod
    def cost(self) -> float:
        """Bit operations per weight and token: bits of the weight times bits of the activation. Bytes alone would
        never choose 4-bit activations, which store nothing less."""

    @abstractmethod
    def stored_bytes(self, shape: Sequence[int]) -> int:
        """Bytes of a weight [out, in, ...] and its scales in an exported file."""


@dataclass(frozen=True)
class FloatFormat(Format):
    """A float type: nothing is quantized."""

    width: int = 32

    @property
    def cost(self) -> float:
        return float(self.width**2)

    def stored_bytes(self, shape: Sequence[int]) -> int:
        return math.prod(shape) * self.width // 8


@dataclass(frozen=True, kw_only=True)
class LinearFormat(Format):
    """Numbers of one linear or convolution: of its weight and of its input, None where that stays floating point.

    convolution: what convolutions get under this name, None where they stay floating point; the output of one is in
    the `activation` format of its input. wide: name of what the layers that bear no less get.
    """

    weight: TensorFormat
    activation: TensorFormat | None
    convolution: LinearFormat | None = None
    wide: str = WIDE

    @property
    def mode(self) -> Activation | None:
        if self.activation is None or self.activation.scale_grid is not None:
            return None
        return "dynamic" if self.activation.dynamic else "static"

    @property
    def observed(self) -> bool:
        """Whether the range of all inputs is a constant, to be observed on data."""
        return self.activation is not None and not self.activation.dynamic

    @property
    def has_room(self) -> bool:
        """Whether a constant range of its inputs can leave room for those of any images, at no loss."""
        return self.activation is not None and self.activation.grid.headroom > 1

    def with_constant_range(self) -> LinearFormat:
        """The same with one range for all inputs, known beforehand; itself where it is so already."""
        if self.activation is None or not self.activation.dynamic:
            return self
        return replace(self, activation=replace(self.activation, granularity=TENSOR, dynamic=False))

    def weights_alone(self) -> LinearFormat | None:
        """The same weights under floating-point activations; None for a floating-point grid, whose codes TensorRT would
        expand at every run."""
        if not isinstance(self.weight.grid, IntegerGrid):
            return None
        return replace(self, bits=f"w{self.weight.grid.storage_bits}a{FLOAT_BITS}", activation=None)

    @property
    def cost(self) -> float:
        inputs = FLOAT_BITS if self.activation is None else self.activation.grid.storage_bits
        return float(self.weight.grid.storage_bits * inputs)

    def stored_bytes(self, shape: Sequence[int]) -> int:
        codes = -(-math.prod(shape) * self.weight.grid.container_bits // 8)
        groups, grid = shape[0] * self.weight.granularity.groups(shape[1]), self.weight.scale_grid
        if grid is None:
            return codes + SCALE_BYTES * groups
        return codes + groups * grid.container_bits // 8 + SCALE_BYTES * shape[0]


def integer_format(
    weight_bits: int, act_bits: int, mode: Activation, *, floor_db: float, ladder: tuple[str, ...]
) -> LinearFormat:
    """Integer products: a scale per row of the weight, per token (dynamic) or per tensor (static) of the input."""
    weight = TensorFormat(IntegerGrid(weight_bits, narrow=True), ROW)
    dynamic = mode == "dynamic"
    activation = TensorFormat(IntegerGrid(act_bits), TOKEN if dynamic else TENSOR, dynamic)
    maps = TensorFormat(IntegerGrid(CONV_BITS), TENSOR)
    convolution = LinearFormat(f"w{weight_bits}a{CONV_BITS}", 0.0, weight=weight, activation=maps)
    return LinearFormat(
        f"w{weight_bits}a{act_bits}",
        floor_db,
        ladder,
        weight=weight,
        activation=activation,
        convolution=convolution,
    )


def weight_only_format(
    bits: int, size: int, *, floor_db: float, ladder: tuple[str, ...], variant: bool = False
) -> LinearFormat:
    """Integer weights with a scale per block of `size` input channels, under floating-point activations.

    variant: named by its block too, such as "w4a16b32".
    """
    weight, name = TensorFormat(IntegerGrid(bits, narrow=True), block(size)), f"w{bits}a{FLOAT_BITS}"
    names = (f"{name}b{size}", name) if variant else (name, None)
    return LinearFormat(names[0], floor_db, ladder, names[1], weight=weight, activation=None)


NVFP4_BLOCK = 16  # input channels under one scale in NVFP4


def fp8_format(bits: str, weight: Grid, mode: Activation, *, floor_db: float, ladder: tuple[str, ...]) -> LinearFormat:
    """E4M3 activations, a scale per token (dynamic) or per tensor (static), and a scale per row of the weight."""
    dynamic = mode == "dynamic"
    activation = TensorFormat(E4M3, TOKEN if dynamic else TENSOR, dynamic)
    return LinearFormat(
        bits,
        floor_db,
        ladder,
        weight=TensorFormat(weight, ROW),
        activation=activation,
        convolution=fp8_convolution(),
        wide=f"fp8-{mode}",
    )


def fp8_convolution() -> LinearFormat:
    """What convolutions get under the floating-point formats."""
    return LinearFormat("fp8", 0.0, weight=TensorFormat(E4M3, ROW), activation=TensorFormat(E4M3, TENSOR))


def nvfp4_format(*, floor_db: float, ladder: tuple[str, ...]) -> LinearFormat:
    """E2M1 on both sides, in blocks of 16 input channels with E4M3 scales; those of activations at run time."""
    numbers = TensorFormat(E2M1, block(NVFP4_BLOCK), scale_grid=E4M3)
    return LinearFormat(
        "nvfp4",
        floor_db,
        ladder,
        weight=numbers,
        activation=numbers,
        convolution=fp8_convolution(),
        wide="fp8-static",
    )
