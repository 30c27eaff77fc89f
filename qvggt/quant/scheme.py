"""Which part of a model gets which number format: one frozen, JSON-serialisable object (DESIGN 3.6)."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qvggt.errors import QvggtError
from qvggt.formats.attention import FLOAT, AttentionFormat, find_attention
from qvggt.formats.linear_format import Activation, Format, LinearFormat
from qvggt.formats.table import ACTIVATIONS, find_format, is_format
from qvggt.mapping import from_mapping
from qvggt.models.family import DEFAULT, find_family

VERSION = 1
DESCRIPTION = "quant.json"  # of a calibrated checkpoint
DEFAULT_PARTS = find_family().default_parts


@dataclass(frozen=True)
class Scheme:
    """Format and activation mode per part of a network of the model family `family`, which says what its parts are.

    `bits`, the name of a format, applies to the layers of `parts`; an override (pattern, bits) replaces it for the
    module paths the fnmatch pattern matches, the last match winning, and may also name layers outside `parts`. A name
    that does not say its activation mode ("w8a8", not "w8a8-static") takes the scheme's `activation`. Convolutions get
    what goes with the format (`LinearFormat.convolution`). constant_ranges: paths of linears that have one range for
    all tokens though their format has one per token: a calibration found that they need no more. attention: format of
    the attention products of those blocks whose qkv is quantized; float_attentions: paths of those among them that stay
    floating point, as their sequences are too short for a kernel.
    """

    bits: str
    activation: Activation = "dynamic"
    parts: tuple[str, ...] = DEFAULT_PARTS
    overrides: tuple[tuple[str, str], ...] = ()
    constant_ranges: tuple[str, ...] = ()
    version: int = VERSION
    family: str = DEFAULT
    attention: str = FLOAT
    float_attentions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = (self.bits, *(bits for _, bits in self.overrides))
        if self.activation not in ACTIVATIONS and all(is_format(name) for name in names):
            raise QvggtError(f"unknown activation mode {self.activation!r}: expected {' or '.join(ACTIVATIONS)}")
        for name in names:
            find_format(name, self.activation)
        known = find_family(self.family).part_names
        unknown = [p for p in self.parts if p not in known]
        if unknown:
            raise QvggtError(f"unknown part {unknown[0]!r}: expected a subset of {', '.join(known)}")
        if find_attention(self.attention) is not None and not self.quantizes:
            raise QvggtError(f"--attention {self.attention}: --bits {self.bits} quantizes no linear; leave it out")
        if self.version != VERSION:
            raise QvggtError(f"scheme version {self.version} is not readable here, expected {VERSION}: update qvggt")

    @property
    def base(self) -> Format:
        """What `bits` stands for."""
        return find_format(self.bits, self.activation)

    @property
    def quantizes(self) -> bool:
        """Whether `bits` quantizes anything; overrides may where it does not."""
        return isinstance(self.base, LinearFormat)

    @property
    def label(self) -> str:
        """Short name for tables and files: "w4a4-static", with parts other than the default ones
        "w8a8-dynamic+camera+dpt" or "w8a8-dynamic@aggregator", with overrides "w4a4-dynamic-mixed", with quantized
        attention "w8a8-dynamic+fp8-attention"."""
        name = self.base.name
        usual = find_family(self.family).default_parts
        if self.quantizes and set(self.parts) != set(usual):
            ordered = [part for part in find_family(self.family).part_names if part in self.parts]
            more = [part for part in ordered if part not in usual]
            whole = set(usual) <= set(ordered)
            name += "".join(f"+{part}" for part in more) if whole else f"@{'+'.join(ordered)}"
        name += "-mixed" if self.overrides else ""
        return name if self.attention == FLOAT else f"{name}+{self.attention}-attention"

    @property
    def floor_db(self) -> float:
        """SQNR an exported network has to reach against its reference."""
        formats = (self.base, find_attention(self.attention))
        return min(format.floor_db for format in formats if format is not None)

    @property
    def needs_ranges(self) -> bool:
        """Whether some layer or attention has constant ranges, which must be observed on data."""
        formats = [self.base, *(find_format(bits, self.activation) for _, bits in self.overrides)]
        static = (
            bool(self.constant_ranges)
            or self.attention != FLOAT
            or any(isinstance(format, LinearFormat) and format.observed for format in formats)
        )
        convs = (self.format(path) for path in find_family(self.family).convs)
        return static or any(format is not None and format.activation is not None for format in convs)

    @property
    def float_type(self) -> str:
        """Type of everything that is not quantized: fp32, unless `bits` itself names a float type."""
        return "fp32" if self.quantizes else self.bits

    def format(self, path: str) -> LinearFormat | None:
        """Format of the linear or convolution at a module path, None where it stays floating point."""
        family = find_family(self.family)
        parts = [part for name in self.parts if (part := family.part(name)).pattern.fullmatch(path)]
        wide = isinstance(self.base, LinearFormat) and self.base.wide
        bits = (wide if wide and parts[0].single else self.bits) if parts else None
        for pattern, override in self.overrides:
            if fnmatch.fnmatchcase(path, pattern):
                bits = override
        format = None if bits is None else find_format(bits, self.activation)
        if not isinstance(format, LinearFormat):
            return None
        if path in family.convs:
            inner = format.convolution
            return inner.weights_alone() if inner is not None and path in family.stems else inner
        return format.with_constant_range() if path in self.constant_ranges else format

    def attention_format(self, path: str) -> AttentionFormat | None:
        """Format of the products of the attention at a module path, None where they stay floating point."""
        if path in self.float_attentions or self.format(f"{path}.qkv") is None:
            return None
        return find_attention(self.attention)

    def to_dict(self) -> dict[str, Any]:
        """Without what is floating-point attention, as files had it that know no other."""
        values = dataclasses.asdict(self)
        return values if self.attention != FLOAT else {k: v for k, v in values.items() if "attention" not in k}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: object) -> Scheme:
        """Rebuild from `to_dict`'s mapping; QvggtError names the key that is wrong, or `bits` where it lacks."""
        if isinstance(values, Mapping):
            values = {"parts": find_family(str(values.get("family", DEFAULT))).default_parts, **values}
        return from_mapping(cls, values, "scheme")


def parse_scheme(
    bits: str, activation: str = "dynamic", parts: Iterable[str] | None = None, family: str = DEFAULT
) -> Scheme:
    """The scheme for `--bits`, `--act` and `--parts`; QvggtError names the offending word and what is allowed.

    A full name such as "w4a4-static" is written as its two halves.
    """
    chosen = find_family(family).default_parts if parts is None else tuple(parts)
    scheme = Scheme(bits=bits, activation=activation, parts=chosen, family=family)  # type: ignore[arg-type]
    return dataclasses.replace(scheme, bits=scheme.base.bits, activation=scheme.base.mode or scheme.activation)
