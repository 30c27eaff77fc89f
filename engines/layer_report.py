"""Which kernel the builder planned for every quantized linear, judged from its own layer table.

The table says which kernels the plan schedules and the types they read; it does not say that a GPU has a fast kernel of
that kind, nor how fast it is, nor that its numbers are right.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from qvggt.engines.layer_table import Operand, Row
from qvggt.onnx_view.network_facts import CONV, GEMM, Attention, NetworkFacts, QuantizedLinear

VERSION = 1
SCOPE = (
    "from the builder's layer table: which kernels the plan schedules and what it stores; which kernel the GPU "
    "runs, its speed and its numbers are not measured"
)
BITS = {"Int4": 4, "FP4": 4, "Int8": 8, "FP8": 8, "Half": 16, "BFloat16": 16, "Float": 32}
FLOATS = ("Half", "BFloat16", "Float")
CONTAINER_TYPES = {"INT4": "Int4", "INT8": "Int8", "FP8": "FP8", "FP4": "FP4"}
SCALES = (*FLOATS, "FP8")  # types of block scales
SCALE_TILE = (4, 128)  # blocks and rows that the block scales of FP4 are padded to multiples of
_GENERATED = "kgen shape_call signal wait allocate deallocate runtime_function"
GENERATED = _GENERATED.split()  # never a matrix product
FUSION = "runtime_fusion"
ALIGNED = {GEMM: 2, CONV: 4}  # rows and columns, or channels, are padded to multiples of it (TensorRT-RTX 1.7.1)
UNMEASURED = "not measured"
NOT_QUANTIZED = "not quantized"
NOT_LISTED = "not listed"  # by the inspector of TensorRT, neither as an operand nor in the name of the tactic
MULTIPLIES = re.compile("gemm|matrixmultiply|conv|correlation|fusion", re.IGNORECASE)
NO_PRODUCT = "the file lists it, and has no product of that name"


@dataclass(frozen=True)
class LinearVerdict:
    """One quantized linear or attention: the kernel it was to become and the one it became.

    found: "INT8 GEMM", "INT4 GEMM", "FP8 GEMM", "FP4 GEMM", "INT8 conv", "FP8 conv", "INT4 weight-only", "FP8
    attention", "not quantized", or "not listed" where the table does not tell: that is no failure. kernel, layer_type:
    name and kind of the row; activation, weight: the types it reads; stored: the type the plan keeps the weight in,
    "not listed" where no row of the linear has a constant; bytes_per_weight: of the stored weight with its block
    scales, None where the table does not show it.
    """

    path: str
    wanted: str
    found: str
    passed: bool
    layer_type: str
    kernel: str
    activation: str
    weight: str
    stored: str
    bytes_per_weight: float | None
    note: str = ""


@dataclass(frozen=True)
class LayerReport:
    """Verdicts of a build; measured is False where the builder gave no table, and nothing is claimed then. format: of
    the file, as tables call it."""

    linears: tuple[LinearVerdict, ...]
    measured: bool
    kernels: dict[str, int]
    products: dict[str, int]
    fused_attentions: int
    attentions: int
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    format: str = ""
    quantized_attentions: tuple[LinearVerdict, ...] = ()

    @property
    def verdicts(self) -> tuple[LinearVerdict, ...]:
        return self.linears + self.quantized_attentions

    @property
    def failed(self) -> tuple[LinearVerdict, ...]:
        return tuple(v for v in self.verdicts if not v.passed and v.found != NOT_LISTED)

    @property
    def passed(self) -> bool:
        """Every linear and attention that should be low-bit is; true as well when there is none."""
        return self.measured and all(v.passed for v in self.verdicts)

    @property
    def verdict(self) -> bool | None:
        """`passed`, None where the table does not tell."""
        return None if not self.measured or (not self.passed and not self.failed) else self.passed

    @property
    def summary(self) -> str:
        """Such as "40/40 linears INT8 GEMM, weights stored as INT4 (0.50 bytes each); attention: 12/12 fused"."""
        if not self.measured:
            return f"layer report: {UNMEASURED} (the builder gave no layer table)"
        parts = [_group(wanted, self.linears) for wanted in dict.fromkeys(v.wanted for v in self.linears)]
        if not parts:
            kinds = ", ".join(f"{count} in {kind}" for kind, count in sorted(self.products.items()))
            parts = [f"no quantized linears; matrix products: {kinds or 'none'}"]
        if self.attentions:
            text = f"attention: {self.fused_attentions}/{self.attentions} fused into one kernel"
            wanted = Counter(v.wanted for v in self.quantized_attentions)
            for kind, count in wanted.items():
                good = sum(v.passed for v in self.quantized_attentions if v.wanted == kind)
                text += f", {good}/{count} in {kind.split()[0]}"
            parts.append(text)
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "scope": SCOPE,
            "passed": self.verdict,
            "summary": self.summary,
            **dataclasses.asdict(self),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def facts(self) -> dict[str, Any]:
        """The part a manifest keeps."""
        return {
            "summary": self.summary,
            "format": self.format,
            "passed": self.verdict,
            "linears": len(self.linears),
            "failed": [v.path for v in self.failed],
            "weight_bytes": self.weight_bytes,
        }

    def table(self) -> str:
        """The verdicts as text, linears of equal outcome in one line."""
        groups: dict[tuple[str, ...], list[LinearVerdict]] = {}
        for v in self.verdicts:
            size = f" {v.bytes_per_weight:.3f} B" if v.bytes_per_weight is not None else ""
            key = (v.found, v.layer_type, v.activation, v.weight, v.stored + size, v.note)
            groups.setdefault(key, []).append(v)
        header = ("linears", "verdict", "kernel", "input", "weight", "stored", "note")
        lines = [header, *((str(len(vs)), *key) for key, vs in groups.items())]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def layer_report(
    facts: NetworkFacts,
    rows: Sequence[Row],
    weight_bytes: int | None = None,
    activation_bytes: int | None = None,
    format: str = "",
) -> LayerReport:
    """Judge the rows of one engine; without rows nothing is measured."""
    by_node: dict[str, list[Row]] = {}
    for row in rows:
        for name in dict.fromkeys(row.onnx):
            by_node.setdefault(name, []).append(row)
    verdicts = tuple(_verdict(linear, by_node) for linear in facts.linears) if rows else ()
    fused = sum(_is_fused((a.scores, a.softmax, a.context), by_node) for a in facts.attentions)
    kernels = Counter(row.kind for row in rows)
    products = Counter(_operand_types(row) for row in rows if row.kind not in GENERATED and row.inputs)
    counts = dict(kernels), dict(products), fused, len(facts.attentions)
    attended = tuple(_attention(a, by_node) for a in facts.attentions if a.wanted) if rows else ()
    return LayerReport(verdicts, bool(rows), *counts, weight_bytes, activation_bytes, format, attended)


def _group(wanted: str, linears: Iterable[LinearVerdict]) -> str:
    group = [v for v in linears if v.wanted == wanted]
    good = [v for v in group if v.passed]
    kind = "convolutions" if wanted.endswith(CONV) else "linears"
    text = f"{len(good)}/{len(group)} {kind} {wanted}"
    stored = {v.stored for v in good}
    sizes = sorted({f"{v.bytes_per_weight:.2f}" for v in good if v.bytes_per_weight is not None})
    if stored == {NOT_LISTED}:
        text += ", storage not listed"
    elif len(stored) == 1 and sizes:
        text += f", weights stored as {min(stored)} ({' to '.join(dict.fromkeys((sizes[0], sizes[-1])))} bytes each)"
    unknown = sum(v.found == NOT_LISTED for v in group)
    return text + (f" ({unknown} not listed)" if unknown else "")


def _operand_types(row: Row) -> str:
    weight = row.constants[0].dtype if row.constants and row.constants[0].size > 1 else row.inputs[-1].dtype
    return row.inputs[0].dtype if row.inputs[0].dtype == weight else f"{row.inputs[0].dtype} x {weight}"


def _is_fused(nodes: tuple[str, ...], by_node: dict[str, list[Row]]) -> bool:
    return bool(_common(nodes, by_node))


def _common(nodes: tuple[str, ...], by_node: dict[str, list[Row]]) -> list[Row]:
    """The rows that stand for all of these nodes."""
    names = set.intersection(*({row.name for row in by_node.get(node, ())} for node in nodes))
    return [row for row in by_node.get(nodes[0], ()) if row.name in names]


def _attention(attention: Attention, by_node: dict[str, list[Row]]) -> LinearVerdict:
    """Whether a quantized attention became one kernel that reads codes."""
    nodes = (attention.scores, attention.softmax, attention.context)
    path, wanted = attention.softmax.rpartition("/")[0] or attention.softmax, attention.wanted
    rows = _common(nodes, by_node)
    if not rows:
        known = any(node in by_node for node in nodes)
        found, note = (NOT_QUANTIZED, "the scores are stored") if known else (NOT_LISTED, "")
        return LinearVerdict(path, wanted, found, False, "", "", "", "", NOT_LISTED, None, note)
    row = rows[0]
    types = {operand.dtype for operand in row.inputs if len(operand.dims) >= 3}
    good = types == {CONTAINER_TYPES.get(wanted.split()[0], "")}
    read = ", ".join(sorted(types))
    found, note = (wanted, "") if good else (NOT_QUANTIZED, f"one kernel, which reads {read}")
    return LinearVerdict(path, wanted, found, good, row.kind, row.name, read, read, NOT_LISTED, None, note)


def _verdict(linear: QuantizedLinear, by_node: dict[str, list[Row]]) -> LinearVerdict:
    """The worst of the linear's uses."""
    uses = [_use(linear, node, by_node) for node in linear.nodes] or [(NOT_QUANTIZED, "", "", "", "", NO_PRODUCT)]
    worst = sorted(uses, key=lambda use: (use[0] == linear.wanted, use[0] == NOT_LISTED))
    found, kind, name, activation, weight, note = worst[0]
    passed = found == linear.wanted and not note
    kernel = found, passed, kind, name, activation, weight
    return LinearVerdict(linear.path, linear.wanted, *kernel, *_stored(linear, by_node), note)


def _use(linear: QuantizedLinear, node: str, by_node: dict[str, list[Row]]) -> tuple[str, str, str, str, str, str]:
    """(verdict, kind and name of the row, activation type, weight type, note) of one product node."""
    rows = by_node.get(node, [])
    if not rows:
        return NOT_QUANTIZED, "", "", "", "", f"no kernel names {node}"
    for row in rows:
        weight = None if row.kind in GENERATED else _weight_operand(linear, row)
        if weight is None:
            continue
        activation = next((o for o in row.inputs if o is not weight), None)
        types = ("" if activation is None else activation.dtype, weight.dtype)
        note = ""
        blocks = linear.block is not None and linear.weight != "FP4"  # a part of that format
        if blocks and linear.activation is not None and linear.inner > (linear.block or 0):
            note = "block scales with quantized activations: builds, but computes only with the first block's scales"
        found = _kernel(*types, linear.product)
        if found == NOT_QUANTIZED:
            expanded = ", weights expanded by another kernel" if linear.weight in CONTAINER_TYPES else ""
            note = f"float product{expanded}"
        elif activation is not None and activation.dtype not in FLOATS and _floating(row):
            found, note = NOT_QUANTIZED, "float product, codes are dequantized inside of the kernel"
        return found, row.kind, row.name, *types, note
    for row in rows:
        if not row.complete and row.kind not in GENERATED and MULTIPLIES.search(row.kind):
            return _unlisted(linear, row)
    return NOT_QUANTIZED, rows[0].kind, rows[0].name, "", "", "only generated kernels, no matrix product"


def _floating(row: Row) -> bool:
    """Whether it multiplies floats though it may read codes."""
    return row.kind == FUSION or (row.multiplied is not None and row.multiplied[0] in FLOATS)


def _unlisted(linear: QuantizedLinear, row: Row) -> tuple[str, str, str, str, str, str]:
    """Of a row without the weight: by the name of its tactic, else by the type it reads (no product mixes codes with
    floats, but a fusion may dequantize)."""
    read = next((operand.dtype for operand in row.inputs if len(operand.dims) >= 2), "")
    types = row.multiplied or ((read, read) if read not in (*FLOATS, "") and "fusion" not in row.kind else None)
    if types is None:
        return NOT_LISTED, row.kind, row.name, read, NOT_LISTED, ""
    found = _kernel(*types, linear.product)
    return found, row.kind, row.name, *types, "" if found != NOT_QUANTIZED else f"float product, tactic {row.tactic}"


def _kernel(activation: str, weight: str, product: str) -> str:
    if weight not in CONTAINER_TYPES.values() or activation not in (*FLOATS, weight):
        return NOT_QUANTIZED
    return f"{weight.upper()} {'weight-only' if activation in FLOATS else product}"


def _weight_operand(linear: QuantizedLinear, row: Row) -> Operand | None:
    """The operand that is the weight: constant before computed, exact shape before a padded one, that before one merged
    with a neighbour's."""
    operands = [o for o in (*row.constants, *reversed(row.inputs)) if len(o.dims) >= 2]
    exact = [o for o in operands if _is_weight(linear, o)]
    padded = [o for o in operands if _is_weight(linear, o, ALIGNED[linear.product])]
    lengths = {linear.inner, _rounded_up(linear.inner, ALIGNED[GEMM])}
    count = linear.inner * linear.outer
    wider = [o for o in operands if linear.product == GEMM and lengths & {*o.dims[-2:]} and o.size > count]
    return next(iter(exact or padded or wider), None)


def _is_weight(linear: QuantizedLinear, operand: Operand, aligned: int = 1) -> bool:
    """Whether an operand has the shape of the weight, in any order; of a convolution any layout of its size.

    aligned: what its sides may have been padded to a multiple of.
    """
    channels = linear.inner // linear.window
    inner, outer = ({side, _rounded_up(side, aligned)} for side in (channels, linear.outer))
    sizes = {(k * linear.window, n) for k in inner for n in outer}
    if linear.product == CONV:
        return operand.size in {k * n for k, n in sizes}
    return sorted(operand.dims[-2:]) in [sorted(pair) for pair in sizes] and operand.size == prod(operand.dims[-2:])


def _rounded_up(side: int, aligned: int) -> int:
    return -(-side // aligned) * aligned


def _stored(linear: QuantizedLinear, by_node: dict[str, list[Row]]) -> tuple[str, float | None]:
    """(type the plan keeps the weight in, bytes per weight with block scales)."""
    rows = [row for node in (*linear.nodes, *linear.weight_nodes) for row in by_node.get(node, ())]
    count = linear.inner * linear.outer
    constants = [o for row in rows for o in row.constants]
    known = [o for o in constants if o.dtype in BITS and len(o.dims) >= 2]
    weights = [o for o in known if _is_weight(linear, o, ALIGNED[linear.product])]
    if not weights:
        return ("?" if not rows or any(row.complete for row in rows) else NOT_LISTED), None
    weight = min(weights, key=lambda o: BITS[o.dtype])
    size = BITS[weight.dtype] / 8 * weight.size / count  # padding is stored too
    if linear.block is not None:
        sides = -(-linear.inner // linear.block), linear.outer
        sizes = {prod(sides)}
        if weight.dtype == "FP4":
            sizes.add(prod(_rounded_up(side, tile) for side, tile in zip(sides, SCALE_TILE, strict=True)))
        scales = [o for o in constants if o.size in sizes and o.dtype in SCALES and len(o.dims) >= 2]
        size += BITS[scales[0].dtype] / 8 * scales[0].size / count if scales else 0.0
    return weight.dtype, size
