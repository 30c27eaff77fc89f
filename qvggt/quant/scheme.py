"""Which linear gets which number format: one frozen, JSON-serialisable object (DESIGN 3.6)."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from qvggt.errors import QvggtError
from qvggt.models.family import DEFAULT, find_family

Activation = Literal["dynamic", "static"]

FLOATS = ("fp32", "fp16", "bf16")
INTEGERS = ("w8a8", "w4a8", "w6a6", "w4a4", "w4a16")
BITS = INTEGERS + FLOATS
ACTIVATIONS: tuple[Activation, ...] = ("dynamic", "static")
WEIGHT_ONLY_BLOCK = 128  # input channels per scale of a w4a16 weight: the group TensorRT has kernels for
CONV_BITS = 8  # of the input and the output of a convolution (qvggt/quant/conv.py says why)
VERSION = 1
DEFAULT_PARTS = find_family().default_parts


@dataclass(frozen=True)
class LinearFormat:
    """Numbers of one linear or convolution. Grids are symmetric with zero point 0 (TensorRT accepts nothing else).

    weight_bits: signed integer grid [-Q, Q], Q = 2^(bits-1) - 1, one scale per output row, or per `block` input
    channels of a row. act_bits: grid [-Q-1, Q], or 16 for activations left in floating point. activation: "dynamic"
    (one scale per token) or "static" (one per tensor); None with act_bits 16.
    """

    weight_bits: int
    act_bits: int
    activation: Activation | None
    block: int | None = None


@dataclass(frozen=True)
class Scheme:
    """Bits and activation mode per part of a network of the model family `family`, which says what its parts are.

    `bits` applies to the layers of `parts`; an override (pattern, bits) replaces it for the module paths the
    fnmatch pattern matches, the last match winning, and may also name layers outside `parts`. Convolutions have static
    8-bit activations whatever the scheme's, and stay float with 16-bit ones.
    """

    bits: str
    activation: Activation = "dynamic"
    parts: tuple[str, ...] = DEFAULT_PARTS
    overrides: tuple[tuple[str, str], ...] = ()
    version: int = VERSION
    family: str = DEFAULT

    def __post_init__(self) -> None:
        for bits in self._all_bits:
            if bits not in BITS:
                raise QvggtError(f"unknown bits {bits!r}: expected one of {', '.join(BITS)}")
        if self.activation not in ACTIVATIONS:
            raise QvggtError(f"unknown activation mode {self.activation!r}: expected {' or '.join(ACTIVATIONS)}")
        known = find_family(self.family).part_names
        unknown = [p for p in self.parts if p not in known]
        if unknown:
            raise QvggtError(f"unknown part {unknown[0]!r}: expected a subset of {', '.join(known)}")
        if self.version != VERSION:
            raise QvggtError(f"scheme version {self.version} is not readable here, expected {VERSION}: update qvggt")

    @property
    def _all_bits(self) -> tuple[str, ...]:
        return self.bits, *(bits for _, bits in self.overrides)

    @property
    def label(self) -> str:
        """Short name for tables and files: "w4a4-static", with parts other than the default ones
        "w8a8-dynamic+camera+dpt" or "w8a8-dynamic@aggregator", with overrides "w4a4-dynamic-mixed"."""
        format = linear_format(self.bits, self.activation)
        name = self.bits if format is None or format.activation is None else f"{self.bits}-{self.activation}"
        usual = find_family(self.family).default_parts
        if format is not None and set(self.parts) != set(usual):
            ordered = [part for part in find_family(self.family).part_names if part in self.parts]
            more = [part for part in ordered if part not in usual]
            whole = set(usual) <= set(ordered)
            name += "".join(f"+{part}" for part in more) if whole else f"@{'+'.join(ordered)}"
        return f"{name}-mixed" if self.overrides else name

    @property
    def needs_ranges(self) -> bool:
        """Whether some layer has static activations, whose ranges must be observed on data."""
        formats = [linear_format(bits, self.activation) for bits in self._all_bits]
        static = any(format is not None and format.activation == "static" for format in formats)
        return static or any(self.format(path) is not None for path in find_family(self.family).convs)

    @property
    def float_type(self) -> str:
        """Type of everything that is not quantized: fp32, unless `bits` itself names a float type."""
        return self.bits if self.bits in FLOATS else "fp32"

    def format(self, path: str) -> LinearFormat | None:
        """Format of the linear or convolution at a module path, None where it stays floating point."""
        family = find_family(self.family)
        bits = self.bits if any(family.part(name).pattern.fullmatch(path) for name in self.parts) else None
        for pattern, override in self.overrides:
            if fnmatch.fnmatchcase(path, pattern):
                bits = override
        if bits is None:
            return None
        return conv_format(bits) if path in family.convs else linear_format(bits, self.activation)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scheme:
        """Rebuild from `to_dict`'s mapping; missing keys take their default, except `bits`."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown or "bits" not in values:
            raise QvggtError(f"scheme: expected keys {', '.join(sorted(known))}, got {', '.join(sorted(values))}")
        parts, overrides = values.get("parts"), values.get("overrides", ())
        if parts is None:
            parts = find_family(values.get("family", DEFAULT)).default_parts
        if not _is_list(parts) or not all(isinstance(p, str) for p in parts):
            raise QvggtError(f"scheme: parts {parts!r}, expected a list of names")
        if not _is_list(overrides) or not all(_is_list(o) and [type(v) for v in o] == [str, str] for o in overrides):
            raise QvggtError(f"scheme: overrides {overrides!r}, expected a list of [pattern, bits]")
        return cls(**{**values, "parts": tuple(parts), "overrides": tuple((p, b) for p, b in overrides)})

    @classmethod
    def from_json(cls, text: str) -> Scheme:
        try:
            values = json.loads(text)
        except ValueError as error:
            raise QvggtError(f"scheme: not JSON ({error})") from error
        if not isinstance(values, dict):
            raise QvggtError(f"scheme: expected a JSON object, got {type(values).__name__}")
        return cls.from_dict(values)


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def linear_format(bits: str, activation: Activation) -> LinearFormat | None:
    """Format a bits name stands for; None for a float type."""
    if bits in FLOATS:
        return None
    weight, act = (int(n) for n in bits[1:].split("a"))
    if act == 16:
        return LinearFormat(weight, 16, None, WEIGHT_ONLY_BLOCK)
    return LinearFormat(weight, act, activation)


def conv_format(bits: str) -> LinearFormat | None:
    """Format of a convolution: the weight bits, static activations of `CONV_BITS`; None for a float type and for
    16-bit activations, as there is no weight-only convolution kernel to use one."""
    format = linear_format(bits, "static")
    return (
        None if format is None or format.activation is None else LinearFormat(format.weight_bits, CONV_BITS, "static")
    )


def parse_scheme(
    bits: str, activation: str = "dynamic", parts: Iterable[str] | None = None, family: str = DEFAULT
) -> Scheme:
    """The scheme for `--bits`, `--act` and `--parts`; QvggtError names the offending word and what is allowed."""
    chosen = find_family(family).default_parts if parts is None else tuple(parts)
    return Scheme(bits=bits, activation=activation, parts=chosen, family=family)  # type: ignore[arg-type]
