"""The table of named formats. Adding one is one `register`: command lines, schemes, recipes, budgets, parity floors and
the exporter read the rest off it.

Nothing here imports torch, so that help texts and wrong names cost nothing.
"""

from __future__ import annotations

from qvggt.errors import QvggtError
from qvggt.formats.float_grid import E4M3
from qvggt.formats.grid import IntegerGrid
from qvggt.formats.linear_format import (
    Activation,
    FloatFormat,
    Format,
    LinearFormat,
    fp8_format,
    integer_format,
    nvfp4_format,
    weight_only_format,
)

DEFAULT = "w8a8"  # where nobody named a format
BLOCKED = "w4a16"  # the format whose scales are those of blocks
ACTIVATIONS: tuple[Activation, ...] = ("dynamic", "static")
FORMATS: dict[str, Format] = {}


def register(format: Format) -> Format:
    """Add a format under its canonical name; ValueError for a name that is taken. Returns it."""
    if format.name in FORMATS:
        raise ValueError(f"format {format.name} is registered already")
    FORMATS[format.name] = format
    return format


def choices() -> list[str]:
    """What --bits takes: names without their activation mode, in the order of registration."""
    return list(dict.fromkeys(format.bits for format in FORMATS.values() if format.block_of is None))


def with_block(bits: str, size: int) -> str:
    """The name of the same format with a scale per `size` input channels of a row; QvggtError where there is none."""
    sizes = blocks(bits)
    if size not in sizes:
        have = f"has blocks of {', '.join(map(str, sizes))}" if sizes else f"has no blocks; take --bits {BLOCKED}"
        raise QvggtError(f"--block {size}: --bits {bits} {have}")
    return sizes[size]


def blocks(bits: str = BLOCKED) -> dict[int, str]:
    """Block size -> name of the format, of a name and its variants; empty for one without blocks to choose."""
    found = {}
    for format in FORMATS.values():
        size = format.weight.granularity.size if isinstance(format, LinearFormat) else None
        if size is not None and bits in (format.bits, format.block_of):
            found[size] = format.bits
    return dict(sorted(found.items()))


def choices_text() -> str:
    """For help texts: "w8a8, w4a8 or fp32"."""
    *names, last = choices()
    return f"{', '.join(names)} or {last}"


def is_format(name: object) -> bool:
    """Whether a name is in the table, with or without its activation mode."""
    return isinstance(name, str) and (name in FORMATS or name in choices())


def find_format(name: str, activation: Activation = "dynamic") -> Format:
    """The format of a name; one that does not say its activation mode takes `activation`.

    QvggtError for an unknown name, and for a mode the format does not have.
    """
    if not is_format(name):
        raise QvggtError(f"unknown bits {name!r}: expected one of {', '.join(choices())}")
    format = FORMATS.get(name) or FORMATS.get(f"{name}-{activation}")
    if format is None:
        others = [other for other, format in FORMATS.items() if format.bits == name]
        raise QvggtError(f"bits {name}: has no {activation} activations; expected {' or '.join(others)}")
    return format


FLOAT32 = FloatFormat("fp32", 80.0, width=32)

for _mode in ACTIVATIONS:
    register(integer_format(8, 8, _mode, floor_db=45.0, ladder=("w8a8", "fp32")))
    register(integer_format(4, 8, _mode, floor_db=45.0, ladder=("w4a8", "w8a8", "fp32")))
    register(integer_format(6, 6, _mode, floor_db=36.0, ladder=("w6a6", "w8a8", "fp32")))
    register(integer_format(4, 4, _mode, floor_db=30.0, ladder=("w4a4", "w4a8", "w8a8", "fp32")))
# TensorRT has kernels for all of these
register(weight_only_format(4, 128, floor_db=60.0, ladder=("w4a16", "fp32")))
for _size in (16, 32, 64):
    _name = f"w4a16b{_size}"
    register(weight_only_format(4, _size, floor_db=60.0, ladder=(_name, "fp32"), variant=True))
for _mode in ACTIVATIONS:
    register(fp8_format("fp8", E4M3, _mode, floor_db=30.0, ladder=("fp8", "fp32")))
    register(fp8_format("w4afp8", IntegerGrid(4, narrow=True), _mode, floor_db=30.0, ladder=("w4afp8", "fp8", "fp32")))
register(nvfp4_format(floor_db=22.0, ladder=("nvfp4", "fp8", "fp32")))
register(FLOAT32)
register(FloatFormat("fp16", 60.0, width=16))
register(FloatFormat("bf16", 45.0, width=16))
