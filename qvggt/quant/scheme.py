"""Which linear gets which number format: one frozen, JSON-serialisable object (DESIGN 3.6)."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from qvggt.errors import QvggtError

Activation = Literal["dynamic", "static"]

FLOATS = ("fp32", "fp16", "bf16")
INTEGERS = ("w8a8", "w4a8", "w6a6", "w4a4", "w4a16")
BITS = INTEGERS + FLOATS
ACTIVATIONS: tuple[Activation, ...] = ("dynamic", "static")
WEIGHT_ONLY_BLOCK = 128  # input channels per scale of a w4a16 weight: the group TensorRT has kernels for
VERSION = 1

_LINEAR = r"(attn\.(qkv|proj)|mlp\.fc[12])"
PARTS = {
    "dino": re.compile(rf"aggregator\.patch_embed\.blocks\.\d+\.{_LINEAR}"),
    "aggregator": re.compile(rf"aggregator\.(frame|global)_blocks\.\d+\.{_LINEAR}"),
    "camera": re.compile(rf"camera_head\.trunk\.\d+\.{_LINEAR}"),
}
DEFAULT_PARTS = ("dino", "aggregator")


@dataclass(frozen=True)
class LinearFormat:
    """Numbers of one linear. Grids are symmetric with zero point 0 (TensorRT accepts nothing else).

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
    """Bits and activation mode per part of the network.

    `bits` applies to the linears of `parts`; an override (pattern, bits) replaces it for the module paths the
    fnmatch pattern matches, the last match winning, and may also name linears outside `parts`.
    """

    bits: str
    activation: Activation = "dynamic"
    parts: tuple[str, ...] = DEFAULT_PARTS
    overrides: tuple[tuple[str, str], ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        for bits in self._all_bits:
            if bits not in BITS:
                raise QvggtError(f"unknown bits {bits!r}: expected one of {', '.join(BITS)}")
        if self.activation not in ACTIVATIONS:
            raise QvggtError(f"unknown activation mode {self.activation!r}: expected {' or '.join(ACTIVATIONS)}")
        unknown = [p for p in self.parts if p not in PARTS]
        if unknown:
            raise QvggtError(f"unknown part {unknown[0]!r}: expected a subset of {', '.join(PARTS)}")
        if self.version != VERSION:
            raise QvggtError(f"scheme version {self.version} is not readable here, expected {VERSION}: update qvggt")

    @property
    def _all_bits(self) -> tuple[str, ...]:
        return self.bits, *(bits for _, bits in self.overrides)

    @property
    def label(self) -> str:
        """Short name for tables and files, e.g. "w4a4-static"."""
        format = linear_format(self.bits, self.activation)
        return self.bits if format is None or format.activation is None else f"{self.bits}-{self.activation}"

    @property
    def needs_ranges(self) -> bool:
        """Whether some linear has static activations, whose ranges must be observed on data."""
        formats = [linear_format(bits, self.activation) for bits in self._all_bits]
        return any(format is not None and format.activation == "static" for format in formats)

    @property
    def float_type(self) -> str:
        """Type of everything that is not quantized: fp32, unless `bits` itself names a float type."""
        return self.bits if self.bits in FLOATS else "fp32"

    def format(self, path: str) -> LinearFormat | None:
        """Format of the linear at a module path, None where it stays floating point."""
        bits = self.bits if any(PARTS[p].fullmatch(path) for p in self.parts) else None
        for pattern, override in self.overrides:
            if fnmatch.fnmatchcase(path, pattern):
                bits = override
        return None if bits is None else linear_format(bits, self.activation)

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
        parts, overrides = values.get("parts", DEFAULT_PARTS), values.get("overrides", ())
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


def parse_scheme(bits: str, activation: str = "dynamic", parts: Iterable[str] = DEFAULT_PARTS) -> Scheme:
    """The scheme for `--bits`, `--act` and `--parts`; QvggtError names the offending word and what is allowed."""
    return Scheme(bits=bits, activation=activation, parts=tuple(parts))  # type: ignore[arg-type]
