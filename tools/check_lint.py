"""Lint against TensorRT-RTX's own layer table, product by product, over every form of file we write or are handed.

    make check-lint                                    # every file, a few minutes on one core, no GPU
    python tools/check_lint.py --only w4a4 -o out.json # files whose name has that in it

A product that lint is silent on has to run in the kernel its format promises; one that a warning names must not. A file
with an error must be refused, one without must build. Any other outcome is a disagreement, printed with its nodes, and
the exit code is 1. So is one of KNOWN that no longer occurs.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from reporting import markdown, start, write_json

from qvggt.engines.layer_report import GENERATED, LayerReport, layer_report
from qvggt.engines.layer_table import Row, rows_of_log
from qvggt.errors import QvggtError
from qvggt.export.lint import Finding, Severity, lint_model
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.graph_format import computed
from qvggt.onnx_view.network_facts import CONV, GEMM, Attention, NetworkFacts, network_facts
from qvggt.onnx_view.product import Product, distant_dq, products, stored_chain

CAPABILITY, BLACKWELL = "8.9", "12.0"  # files with FP4 are for the latter
LOW = ("Int4", "Int8", "FP4", "FP8")
# errors on numbers, not on legality: such a file may build, with any kernel
OTHER_NUMBERS = ("QV103", "QV203", "QV204", "QV301", "QV308", "QV313", "QV321")
NO_PROMISE = ("QV505", "QV701", "QV702")  # findings that say nothing on kernels or on TensorRT
PADDED = "QV501"  # of an integer product it says that the weight is padded at every run
# (file, node) -> why lint and layer table differ there; "" as the node for the file as a whole
KNOWN: dict[tuple[str, str], str] = {
    ("little frames/w4a4-static", ""): "TensorRT-RTX 1.7.1 fails to generate a kernel for INT4 activations of a narrow "
    "network on 28 and 42 pixels (9 or 14 tokens); wider ones and 56 pixels build, no rule of the graph's form tells"
}


@dataclass(frozen=True)
class Promise:
    """What lint says of one product: its rules, none where the kernel of its format is to be expected. nodes: all that
    stand for the same linear. integer: its Q/DQ ask for a product of codes, else for a weight-only kernel."""

    nodes: tuple[str, ...]
    format: str
    rules: tuple[str, ...]
    integer: bool = True


@dataclass(frozen=True)
class Kernel:
    """What the layer table says of a product: its kernel, whether that is the one its format promises, and whether it
    multiplies codes. padded: another kernel pads the weight at every run."""

    found: str
    promised: bool
    integer: bool
    padded: bool = False


@dataclass(frozen=True)
class Disagreement:
    """node: "" where it is about the file as a whole."""

    file: str
    node: str
    lint: str
    builder: str

    @property
    def key(self) -> tuple[str, str]:
        return self.file, self.node


@dataclass(frozen=True)
class Outcome:
    """Of one file; refusal: the builder's words, "" where it built."""

    file: str
    products: int
    agree: int
    disagreements: tuple[Disagreement, ...]
    refusal: str
    errors: tuple[str, ...]


def compare(
    file: str,
    promises: Sequence[Promise],
    kernels: Sequence[Kernel | None],
    errors: Sequence[str] = (),
    refusal: str = "",
) -> Outcome:
    """Promises and the kernels of the same products, None where the builder gave none; rule ids of errors."""
    wrong = []
    if refusal and not errors:
        wrong.append(Disagreement(file, "", "no error", f"refused: {refusal}"))
    if not refusal and (fatal := [rule for rule in errors if rule not in OTHER_NUMBERS]):
        wrong.append(Disagreement(file, "", f"error {', '.join(fatal)}", "builds"))
    agree = 0
    for promise, kernel in zip(promises, kernels, strict=True):
        if kernel is None:  # a refused file has none
            agree += bool(refusal and errors)
            continue
        if _agrees(promise, kernel):
            agree += 1
            continue
        said = ", ".join(promise.rules) or "silent"
        wrong.append(Disagreement(file, promise.nodes[0], f"{said} on {promise.format}", kernel.found))
    return Outcome(file, len(promises), agree, tuple(wrong), refusal, tuple(errors))


def _agrees(promise: Promise, kernel: Kernel) -> bool:
    losing = [rule for rule in promise.rules if rule not in OTHER_NUMBERS]
    if not losing:  # wrong numbers come from any kernel
        return bool(promise.rules) or (kernel.promised and not kernel.padded)
    if promise.integer and losing == [PADDED]:
        return kernel.padded
    return not (kernel.integer if promise.integer else kernel.promised)


def promises(model: Model, facts: NetworkFacts, findings: Sequence[Finding]) -> list[Promise]:
    """Of every quantized product, and of those that a finding names."""
    rules: dict[str, list[str]] = {}
    for finding in findings:
        if finding.rule not in NO_PROMISE:
            rules.setdefault(finding.node, []).append(finding.rule)
    formats = {product.label: product for product in computed(model)}
    around = {product.label: tuple(_around(product)) for product in products(model)}
    integer = {product.label: _asks_for_integers(product) for product in products(model)}
    owner = {node: linear.nodes for linear in facts.linears for node in linear.nodes}
    owner |= {node: _products(a) for a in facts.attentions if a.wanted for node in _products(a)}
    found: dict[tuple[str, ...], Promise] = {}
    for label in dict.fromkeys([*around, *formats]):
        said = {rule for name in (label, *around.get(label, ())) for rule in rules.get(name, ())}
        known = formats.get(label)
        if not said and not (known is not None and known.quantized) and label not in owner:
            continue
        nodes = owner.get(label, (label,))
        before = found.get(nodes)
        said |= set() if before is None else set(before.rules)
        found[nodes] = Promise(
            nodes, "float" if known is None else known.format, tuple(sorted(said)), integer.get(label, True)
        )
    return list(found.values())


def _around(product: Product) -> Iterator[str]:
    """Labels of the Q and DQ in front of a product."""
    for operand in (product.data, product.weight):
        yield from (node.label for node in stored_chain(operand))


def _asks_for_integers(product: Product) -> bool:
    """Whether its activation comes from a Q/DQ pair, next to it or nearby."""
    data = product.data
    return data.dq is not None or (not data.constant and distant_dq(product.scope, data.name) is not None)


def kernels(promised: Sequence[Promise], report: LayerReport, facts: NetworkFacts, rows: Sequence[Row]) -> list[Kernel]:
    """The layer report's word on what it counts as a linear; of other products what their rows read."""
    verdicts = {linear.nodes: v for linear, v in zip(facts.linears, report.linears, strict=True)}
    wanted = [attention for attention in facts.attentions if attention.wanted]
    attended = {_products(a): v for a, v in zip(wanted, report.quantized_attentions, strict=True)}
    found = []
    for promise in promised:
        if (fused := attended.get(promise.nodes)) is not None:
            found.append(Kernel(f"{fused.found}: {fused.note}", fused.passed, fused.passed))
            continue
        verdict, mine = verdicts.get(promise.nodes), [row for row in rows if {*promise.nodes} & {*row.onnx}]
        if verdict is None:
            found.append(_by_rows(mine))
            continue
        text = f"{verdict.found} (wanted {verdict.wanted}){': ' if verdict.note else ''}{verdict.note}"
        integer = verdict.found.endswith((GEMM, CONV))
        padded = any(row.kind in GENERATED and not row.inputs and len(row.constants) > 1 for row in mine)
        found.append(Kernel(text, verdict.passed, integer, padded))
    return found


def _products(attention: Attention) -> tuple[str, ...]:
    """Nodes of both products, which are one kernel or none."""
    return attention.scores, attention.context


def _by_rows(rows: Sequence[Row]) -> Kernel:
    """Of a product without a low-bit weight: two matrices of codes, or not."""
    types = [[o.dtype for o in (*row.inputs, *row.constants) if len(o.dims) >= 2] for row in rows if _multiplies(row)]
    integer = any(sum(kind in LOW for kind in kinds) > 1 for kinds in types)
    return Kernel("; ".join(" x ".join(kinds) for kinds in types) or "no matrix product", integer, integer)


def _multiplies(row: Row) -> bool:
    return row.kind not in GENERATED


def check_file(name: str, path: Path, folder: Path) -> Outcome:
    """Lint one ONNX file, build it for one GPU generation, compare."""
    findings = lint_model(path)
    errors = sorted({f.rule for f in findings if f.severity is Severity.ERROR})
    model = open_onnx(path, strict=False)
    facts = network_facts(model)
    promised = promises(model, facts, findings)
    try:
        rows = built_rows(path, facts, folder)
    except QvggtError as error:
        text = str(error).partition(": ")[2].splitlines()[0][:160]
        return compare(name, promised, [None] * len(promised), errors, text)
    report = layer_report(facts, rows)
    return compare(name, promised, kernels(promised, report, facts, rows), errors)


def built_rows(path: Path, facts: NetworkFacts, folder: Path) -> list[Row]:
    """The layer table; QvggtError with the builder's words where it refuses the file."""
    from qvggt.engines.build_config import BuildConfig
    from qvggt.engines.trt_build import build_with_python

    profile = {}
    for name, dims in facts.inputs.items():
        if None in dims:
            low, opt, high = (tuple(count if d is None else d for d in dims) for count in (1, 2, 8))
            profile[name] = low, opt, high
    with tempfile.TemporaryDirectory(dir=folder) as work:
        capability = BLACKWELL if "fp4" in facts.types else CAPABILITY
        engine, config = Path(work) / "engine", BuildConfig(compute_capabilities=(capability,))
        return rows_of_log(build_with_python(path, engine, Path(work), config, [profile], shown=False).table)


def unexpected(outcomes: Sequence[Outcome], known: dict[tuple[str, str], str]) -> list[str]:
    """One line for each disagreement that is not known, and for each known one of these files that is gone."""
    found = {d.key: d for outcome in outcomes for d in outcome.disagreements}
    lines = [
        f"{d.file}: {d.node or 'the file'}: lint {d.lint}, builder {d.builder}"
        for d in found.values()
        if d.key not in known
    ]
    files = {outcome.file for outcome in outcomes}
    gone = [key for key in known if key[0] in files and key not in found]
    return lines + [f"{file}: {node or 'the file'}: listed in KNOWN, but lint and builder agree" for file, node in gone]


def main(
    only: Annotated[str, typer.Option(help="Only files whose name contains this.")] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder that keeps the ONNX files.")] = None,
) -> None:
    """Lint against the layer table; exit code 1 where they disagree."""
    from lint_files import ALL

    if find_spec("tensorrt_rtx") is None:
        raise QvggtError("tensorrt_rtx: not installed; pip install '.[rtx]' in the clone")
    outcomes, began = [], time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in ALL.items():
            if only in name:
                path = folder / f"{name.replace('/', '-').replace(' ', '_')}.onnx"
                write(path)
                outcomes.append(check_file(name, path, folder))
                _told(outcomes[-1])
    lines = unexpected(outcomes, KNOWN)
    report: dict[str, Any] = {
        "capability": CAPABILITY,
        "seconds": round(time.monotonic() - began),
        "files": [asdict(outcome) for outcome in outcomes],
        "known": [{"file": f, "node": n, "why": why} for (f, n), why in KNOWN.items()],
        "unexpected": lines,
    }
    header = ("file", "products", "agree", "builder", "disagreements")
    print(markdown(header, [_cells(outcome) for outcome in outcomes]))
    for (file, node), why in KNOWN.items():
        print(f"known: {file}: {node or 'the file'}: {why}")
    print(*(f"disagreement: {line}" for line in lines), sep="\n")
    total = sum(outcome.products for outcome in outcomes)
    print(f"{len(outcomes)} files, {total} products, {len(lines)} disagreements, {report['seconds']} s")
    if output is not None:
        write_json(output, report)
    raise typer.Exit(code=bool(lines) or not outcomes)


def _cells(outcome: Outcome) -> list[str]:
    builder = f"refuses ({', '.join(outcome.errors) or 'no finding'})" if outcome.refusal else "builds"
    nodes = ", ".join(d.node or "the file" for d in outcome.disagreements)
    return [outcome.file, str(outcome.products), str(outcome.agree), builder, nodes or "-"]


def _told(outcome: Outcome) -> None:
    print(" ".join(_cells(outcome)), file=sys.stderr, flush=True)


if __name__ == "__main__":
    start(main)
