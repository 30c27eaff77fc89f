"""The compiled layers a TensorRT builder prints, as rows.

Two documented sources: the table in the verbose log (TensorRT-RTX, detailed profiling verbosity), and the JSON
of the engine inspector (`trtexec --exportLayerInfo`, TensorRT). Engine files are never parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from qvggt.errors import QvggtError

ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
SECTIONS = ("Inputs", "Constants", "Outputs")
TENSOR = re.compile(r"Name: (?P<name>.*?), Dimensions: \[(?P<dims>[-\d,\s]*)\].*?Datatype: (?P<type>\w+)", re.DOTALL)
_TYPES = "Int4 Int8 Int32 Int64 Bool FP8 FP4 BFloat16 Half Float"
TYPES = {name.lower(): name for name in _TYPES.split()} | {"bf16": "BFloat16", "fp16": "Half", "fp32": "Float"}
TYPES |= {"fp4e2m1": "FP4", "fp8e4m3": "FP8", "e2m1": "FP4", "e4m3": "FP8"}
_TACTIC = {"i4": "Int4", "i8": "Int8", "e4m3": "FP8", "e2m1": "FP4", "f16": "Half", "bf16": "BFloat16"}
_TACTIC |= {"f32": "Float", "tf32": "Float"}
_WORD = f"({'|'.join(sorted(_TACTIC, key=len, reverse=True))})"
# sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_...: first operand and output, second operand and sum, scales
OPERANDS = re.compile(rf"_{_WORD}[a-z]+\d+(?:m\d)?_{_WORD}[a-z]+\d+(?:m\d)?_")
INTEGER, FLOATING = re.compile(r"i\d{4,5}(gemm|cudnn)|(^|_)(int8|s8)(x4|x32)?_"), re.compile(r"[hs]\d{3,5}(gemm|cudnn)")
HEAD = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), ", re.DOTALL)


@dataclass(frozen=True)
class Operand:
    """A tensor a kernel reads or writes; dims hold -1 where dynamic; dtype: Int8, Int4, FP8, FP4, Half, Float, ... (one
    name for what builders print), another one as printed."""

    name: str
    dims: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of values, 0 with a dynamic dimension."""
        return prod(max(dim, 0) for dim in self.dims)


@dataclass(frozen=True)
class Row:
    """One kernel: kind is the builder's word (gemm, runtime_fusion, kgen, ...), onnx the nodes it stands for. complete:
    whether its source lists constants at all; TensorRT 10's inspector does not."""

    name: str
    kind: str
    inputs: tuple[Operand, ...]
    constants: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    tactic: str
    onnx: tuple[str, ...]
    complete: bool = True

    @property
    def multiplied(self) -> tuple[str, str] | None:
        """Types of the two operands as the name of the tactic has them, such as ("Int8", "Int8") of
        "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize..."; None where it does not say."""
        if match := OPERANDS.search(self.tactic):
            return _TACTIC[match[1]], _TACTIC[match[2]]
        if INTEGER.search(self.tactic):
            return "Int8", "Int8"
        return ("Half", "Half") if FLOATING.search(self.tactic) else None


def rows_of_log(text: str) -> list[Row]:
    """Rows of the messages "Layers:\\nName: ..., LayerType: ..." of a verbose build log; other lines are skipped."""
    return [row for line in text.splitlines() if "LayerType: " in line and (row := _row_of_line(line)) is not None]


def rows_by_profile(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each optimisation profile: each has kernels of its own for the same nodes.

    The name of a row of a further profile has "[profile 1]" in it; generated kernels have only the number of their
    part of the engine, as in "_myl3_12", in common with one that has.
    """
    parts = {_part(row): number for row in rows if (number := _profile(row)) and _part(row)}
    profiles: dict[int, list[Row]] = {}
    for row in rows:
        profiles.setdefault(_profile(row) or parts.get(_part(row), 0), []).append(row)
    return [profiles[number] for number in sorted(profiles)]


def _profile(row: Row) -> int:
    found = re.search(r"\[profile (\d+)\]", row.name)
    return 0 if found is None else int(found[1])


def _part(row: Row) -> str:
    found = re.search(r"_myl(\d+)_\d+$", row.name)
    return "" if found is None else found[1]


def rows_of_inspector(text: str) -> list[Row]:
    """Rows of the engine inspector's JSON, of one engine; QvggtError when it has no list of detailed layers.

    Both spellings are read: "Format/Datatype" (TensorRT 10) and "Format" with "DataType" (TensorRT 11). TensorRT 10 has
    the weights of a convolution by type and count, and those of most matrix products not at all.
    """
    try:
        layers = json.loads(text)["Layers"]
        if not all(isinstance(layer, dict) for layer in layers):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise QvggtError(
            "layer information: expected JSON with detailed Layers; build with detailed verbosity"
        ) from error
    return [_row_of_object(layer) for layer in layers]


def _row_of_line(line: str) -> Row | None:
    head = HEAD.search(line)
    places = [line.find(f"{word}: [", head.end() if head else 0) for word in SECTIONS]
    tail = line.rfind("TacticName: ")
    if complete := places[1] >= 0:
        ends = (*places[1:], tail)
    else:  # as TensorRT 10 prints them
        places[1], ends = places[2], (places[2], places[2], tail)
    if head is None or tail < 0 or min(places) < 0 or places != sorted(places):
        return None
    inputs, constants, outputs = (tuple(_operands(line[start:end])) for start, end in zip(places, ends, strict=True))
    nodes = tuple(ONNX_LAYER.findall(line, tail))
    tactic = line[tail + len("TacticName: ") :].split(", ", 1)[0]
    return Row(head["name"], head["kind"].strip(), inputs, constants, outputs, tactic, nodes, complete)


def _operands(section: str) -> Iterator[Operand]:
    for match in TENSOR.finditer(section):
        dims = tuple(int(d) for d in match["dims"].split(",") if d.strip())
        yield Operand(match["name"], dims, _dtype(match["type"]))


def _row_of_object(layer: dict[str, Any]) -> Row:
    inputs, constants, outputs = (
        tuple(_operand_of_object(entry) for entry in layer.get(word) or [] if isinstance(entry, dict))
        for word in SECTIONS
    )
    if isinstance(weights := layer.get("Weights"), dict) and isinstance(count := weights.get("Count"), int):
        constants = (*constants, Operand("weights", (1, count), _dtype(str(weights.get("Type", "")))))
    name, kind, tactic, metadata = (str(layer.get(k, "")) for k in ("Name", "LayerType", "TacticName", "Metadata"))
    complete = "Constants" in layer
    return Row(name, kind, inputs, constants, outputs, tactic, tuple(ONNX_LAYER.findall(metadata)), complete)


def _operand_of_object(entry: dict[str, Any]) -> Operand:
    dims = entry.get("Dimensions") or []
    words = str(entry.get("DataType") or entry.get("Datatype") or entry.get("Format/Datatype") or "")
    return Operand(str(entry.get("Name", "")), tuple(d for d in dims if isinstance(d, int)), _dtype(words))


def _dtype(words: str) -> str:
    """The type in phrases such as "Int8", "FP16", "Row major linear FP32"."""
    return next((TYPES[word] for word in re.findall(r"[a-z0-9]+", words.lower()) if word in TYPES), words)
