"""Which builder of engines is for which GPU and version, as NVIDIA documents it; docs/tensorrt.md has the sources.

The table only refuses what is known not to go: a version or a GPU newer than it is left to the builder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from qvggt.formats.linear_format import Format, LinearFormat

NAMES = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT", "trtexec": "TensorRT"}
OLDEST = (10, 12)  # of TensorRT: strongly typed networks with INT4 and without the flags version 11 removed


@dataclass(frozen=True)
class Card:
    """GPUs of one compute capability. rtx: whether TensorRT-RTX has kernels for them; TensorRT has for all here."""

    capability: str
    family: str
    examples: str
    rtx: bool


@dataclass(frozen=True)
class JetPack:
    """What a Jetson comes with; its TensorRT is that of its JetPack."""

    version: str
    devices: str
    tensorrt: str
    note: str


CARDS = (
    Card("7.5", "Turing", "T4, RTX 20", True),
    Card("8.0", "Ampere", "A100, A30", True),
    Card("8.6", "Ampere", "A10, A40, RTX 30", True),
    Card("8.7", "Ampere", "Jetson Orin", False),
    Card("8.9", "Ada", "L4, L40, RTX 40", True),
    Card("9.0", "Hopper", "H100, H200", False),
    Card("10.0", "Blackwell", "B200, GB200", False),
    Card("10.3", "Blackwell", "B300, GB300", False),
    Card("11.0", "Blackwell", "Jetson Thor", False),
    Card("12.0", "Blackwell", "RTX 50, RTX PRO", True),
    Card("12.1", "Blackwell", "GB10 (DGX Spark)", True),
)
JETPACKS = (
    JetPack("6", "Orin", "10.3", "too old; no TensorRT newer than 10.7 was made for it"),
    JetPack("7.0, 7.1", "Thor", "10.13", "runs"),
    JetPack("7.2", "Orin, Thor", "10.16", "runs; from 7.2.2 on TensorRT 11.4.1 can be installed"),
)
SMALLEST = {  # type -> capability from which on a builder has kernels for it
    "rtx": {"int4": "8.0", "bf16": "8.0", "fp8": "8.9", "fp4": "12.0"},
    "tensorrt": {"bf16": "8.0", "fp8": "8.9", "fp4": "10.0"},
}
PORTABLE_FROM = "8.0"  # what an RTX engine without --cc is for: Turing has to be named


def why_not(backend: str, version: str = "", capability: str = "", types: Iterable[str] = ()) -> str | None:
    """Why a builder ("rtx", "tensorrt" or "trtexec") of a version such as "10.13.3" has nothing for a GPU of a compute
    capability such as "8.9", or for a type such as "int4" there; None where nothing is known against it.
    """
    if reason := too_old(backend, version):
        return reason
    if not capability:
        return None
    name, card = NAMES[backend], next((card for card in CARDS if card.capability == capability), None)
    if numbers(capability) < numbers(CARDS[0].capability):
        return f"{name} has no kernels for compute capability {capability}, only from {CARDS[0].capability} on"
    if backend == "rtx" and card is not None and not card.rtx:
        ours = ", ".join(card.capability for card in CARDS if card.rtx)
        return (
            f"{name} has no kernels for compute capability {capability} ({card.examples}), only for {ours}; "
            "TensorRT itself has: --backend tensorrt, on a machine with that GPU"
        )
    smallest = SMALLEST["rtx" if backend == "rtx" else "tensorrt"]
    for kind in sorted(types, key=lambda kind: numbers(smallest.get(kind, "")), reverse=True):
        if kind in smallest and numbers(capability) < numbers(smallest[kind]):
            return f"{name} has no {kind} kernels for compute capability {capability}, only from {smallest[kind]} on"
    return None


def format_types(format: Format) -> set[str]:
    """The types of a format's numbers that not every GPU has kernels for, as `SMALLEST` names them."""
    if not isinstance(format, LinearFormat):
        return {format.bits} & {"bf16"}
    numbers = [operand for operand in (format.weight, format.activation) if operand is not None]
    grids = [grid for each in numbers for grid in (each.grid, each.scale_grid) if grid is not None]
    known = {kind for smallest in SMALLEST.values() for kind in smallest}
    return {grid.container.lower() for grid in grids} & known


def least_capability(backend: str, types: Iterable[str]) -> str:
    """The compute capability from which on a builder has kernels for all of these types, such as "8.9"; "" where none
    of them needs a newer GPU than the builder itself."""
    smallest = SMALLEST["rtx" if backend == "rtx" else "tensorrt"]
    return max((smallest[kind] for kind in types if kind in smallest), key=numbers, default="")


def portable_set(types: Iterable[str]) -> tuple[str, ...]:
    """What a TensorRT-RTX engine is built for without --cc: the GPUs with kernels for these types of its file, () for
    the builder's own portable set, all of which have them. The builder takes types that some of its set lack and would
    make an engine that fails to load there."""
    least = numbers(least_capability("rtx", types))
    if least <= numbers(PORTABLE_FROM):
        return ()
    return tuple(card.capability for card in CARDS if card.rtx and numbers(card.capability) >= least)


def missing_types(capability: str, backend: str) -> tuple[str, ...]:
    """The types that a builder has kernels for on newer GPUs only."""
    smallest = SMALLEST["rtx" if backend == "rtx" else "tensorrt"]
    return tuple(kind for kind in smallest if numbers(capability) < numbers(smallest[kind]))


def too_old(backend: str, version: str) -> str | None:
    """Why a version is not used at all, None for a good one and for one that says nothing."""
    found = numbers(version)
    if backend == "rtx" or not found or found >= OLDEST:
        return None
    return (
        f"TensorRT {version}: expected {'.'.join(map(str, OLDEST))} or newer; pip install -U tensorrt (a Jetson needs "
        "JetPack 7, JetPack 6 has 10.3)"
    )


def capability_here() -> str:
    """Compute capability of this machine's GPU, such as "8.9"; "" without one."""
    import torch

    return ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else ""


def not_portable(capability: str) -> str | None:
    """Why a TensorRT-RTX engine that was built without --cc is not for a GPU."""
    if numbers(capability) >= numbers(PORTABLE_FROM):
        return None
    return f"TensorRT-RTX's portable set, which compute capability {capability} is not in; build with --cc {capability}"


def same_version(first: str, second: str) -> bool:
    """Whether two versions agree on the parts both name: trtexec prints "10.13.3", the wheel "10.13.3.9". A version
    without numbers, such as "unknown", agrees with all."""
    pairs = list(zip(numbers(first), numbers(second), strict=False))
    return all(a == b for a, b in pairs)


def numbers(version: str) -> tuple[int, ...]:
    """(10, 13, 3) of "10.13.3" and of "10.13.3rc1", () of a text without."""
    parts = takewhile(str.isdigit, version.replace("rc", ".rc").split("."))
    return tuple(int(part) for part in parts)


def tables() -> str:
    """The two tables of docs/tensorrt.md."""
    cards = [("capability", "GPUs", "`rtx`", "`tensorrt`, `trtexec`")]
    for card in CARDS:
        lacking = (missing_types(card.capability, name) for name in ("rtx", "tensorrt"))
        rtx, own = (", ".join(("yes", *(f"no {kind}" for kind in types))) for types in lacking)
        cards.append((card.capability, f"{card.family}: {card.examples}", rtx if card.rtx else "no", own))
    jetpacks = [("JetPack", "modules", "TensorRT", "")]
    jetpacks += [(j.version, j.devices, j.tensorrt, j.note) for j in JETPACKS]
    return "\n".join((*_markdown(cards), "", *_markdown(jetpacks)))


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]
