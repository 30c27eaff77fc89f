"""Faults to plant in a Python file: cosmic-ray's operators, and three that it lacks.

A mutant is one small change of the source. cosmic-ray has many for one place (half a dozen operators that may stand for
a `+`); a draw takes one for each place, so that arithmetic does not outvote everything else. Changes of annotations and
of what only type checkers read are no mutants.
"""

from __future__ import annotations

import ast
import difflib
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvggt.errors import QvggtError

MODULES = {"torch", "np", "math", "os", "re", "json", "dataclasses", "helper", "onnx", "nn", "F", "builder"}
# operators that need arguments; numbers do not shift and have no bits, so such a fault could only crash
SKIPPED = re.compile(
    r"Variable|ReplaceBinary.*_(Add|Sub|Mul|Div|FloorDiv|Mod|Pow)_(.Shift|Bit)|.*_(.Shift|Bit\w+)_[^B]"
)
Position = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Mutant:
    """source: of the whole file with the change in it. line: where it is, from 1. before, after: the changed lines."""

    file: str
    source: str
    line: int
    before: str
    after: str
    operator: str

    @property
    def name(self) -> str:
        """What the change is, wherever in the file it is."""
        return f"{self.file}: {self.before} -> {self.after}"


class DropCall:
    """`x.clamp(0, 1)` -> `x`."""

    def mutation_positions(self, node: Any) -> list[Position]:
        return [(node.children[at].start_pos, node.children[at + 1].end_pos) for at in self._calls(node)]

    def mutate(self, node: Any, index: int) -> Any:
        at = self._calls(node)[index]
        del node.children[at : at + 2]
        return node

    def _calls(self, node: Any) -> list[int]:
        if node.type != "atom_expr":
            return []
        opens = [child.children[0].value if child.type == "trailer" else "" for child in node.children]
        pairs = [i for i in range(1, len(opens) - 1) if opens[i] == "." and opens[i + 1] == "("]
        return [i for i in pairs if i > 1 or getattr(node.children[0], "value", "") not in MODULES]


class DropArgument:
    """`f(x, key=1)` -> `f(x)`."""

    def mutation_positions(self, node: Any) -> list[Position]:
        return [(node.children[at].start_pos, node.children[at].end_pos) for at in self._keywords(node)]

    def mutate(self, node: Any, index: int) -> Any:
        at, children = self._keywords(node)[index], node.children
        del children[at : at + (2 if at == 0 else 1)]
        if at > 1:
            del children[at - 1]  # the comma
        return node

    def _keywords(self, node: Any) -> list[int]:
        if node.type not in ("arglist", "trailer"):
            return []
        found = [child.type == "argument" and child.children[1] == "=" for child in node.children]
        return (
            []
            if node.type == "trailer" and node.children[0] != "("
            else [i for i, is_one in enumerate(found) if is_one]
        )


class DropStatement:
    """A call, a raise, or an assignment to an attribute or an element -> `pass`."""

    def mutation_positions(self, node: Any) -> list[Position]:
        first = node.children[0] if node.type == "simple_stmt" else None
        return [(first.start_pos, first.end_pos)] if first is not None and self._drops(first) else []

    def mutate(self, node: Any, index: int) -> Any:
        from parso.python.tree import Keyword

        first = node.children[0]
        node.children[0] = Keyword("pass", first.start_pos, first.get_first_leaf().prefix)
        return node

    def _drops(self, statement: Any) -> bool:
        assigned = statement.type == "expr_stmt" and statement.children[0].type == "atom_expr"
        return assigned or statement.type in ("raise_stmt", "atom_expr")


OWN = {operator.__name__: operator for operator in (DropCall, DropArgument, DropStatement)}


def operators() -> dict[str, Any]:
    """By name: ours and cosmic-ray's that need no arguments; QvggtError where it is not installed."""
    try:
        from cosmic_ray.plugins import get_operator, operator_names
    except ImportError as error:
        raise QvggtError("cosmic-ray: not installed; pip install '.[mutation]' in the clone") from error
    found = {name.partition("/")[2]: get_operator(name) for name in operator_names()}
    return {name: cls() for name, cls in {**found, **OWN}.items() if not SKIPPED.match(name)}


def draw(path: Path, file: str, seed: int, sample: int) -> tuple[int, list[Mutant]]:
    """(how many places of the file can be changed, one mutant of each of `sample` of them; 0: of all)."""
    source, tools = path.read_text(encoding="utf-8"), operators()
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code

    places: defaultdict[tuple[str, Position], list[tuple[str, int]]] = defaultdict(list)
    counts: defaultdict[str, int] = defaultdict(int)
    for node in ast_nodes(get_ast(source)):
        for name, operator in tools.items():
            for position in operator.mutation_positions(node):
                places[name.partition("_")[0], position].append((name, counts[name]))
                counts[name] += 1
    generator = random.Random(f"{seed} {file}")
    plain, mutants, possible = behaviour(source), dict[str, Mutant](), 0
    for _, choices in generator.sample(sorted(places.items()), len(places)):
        generator.shuffle(choices)
        name, occurrence = choices[0]
        changed = mutate_code(source, tools[name], occurrence)
        if changed is None or (meaning := behaviour(changed)) in ("", plain) or meaning in mutants:
            continue
        possible += 1
        if not sample or len(mutants) < sample:
            mutants[meaning] = described(file, source, changed, name)
    return possible, sorted(mutants.values(), key=lambda mutant: (mutant.line, mutant.name))


def described(file: str, source: str, changed: str, operator: str) -> Mutant:
    old, new = source.splitlines(), changed.splitlines()
    blocks = [b for b in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if b[0] != "equal"]
    start, end, after = blocks[0][1], blocks[-1][2], new[blocks[0][3] : blocks[-1][4]]
    texts = [" ".join(" ".join(lines).split()) for lines in (old[start:end], after)]
    return Mutant(file, changed, start + 1, texts[0], texts[1], operator)


def behaviour(source: str) -> str:
    """The program without what no run of it reads; "" for what is no program."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    return ast.dump(_Bare("from_mapping" in source).visit(tree))


class _Bare(ast.NodeTransformer):
    """Without annotations (but those of fields that a file reads from JSON) and blocks for type checkers."""

    def __init__(self, fields_are_read: bool) -> None:
        self.fields_are_read = fields_are_read

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if any(isinstance(part, ast.Name) and part.id == "TYPE_CHECKING" for part in ast.walk(node.test)):
            return None
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if not self.fields_are_read:
            node.annotation = ast.Constant(None)
        return self.generic_visit(node)
