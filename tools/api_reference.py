"""Write docs/api.md from the docstrings: python tools/api_reference.py [--check]

Sources are read, not imported: the text is the same on every machine, and takes no GPU library.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from qvggt import PUBLIC, __version__

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
ROOMS = ("export", "engines", "calib", "eval")
Function = ast.FunctionDef | ast.AsyncFunctionDef

# what programs build on, by room; the rest is for reading in place
MODULES = (
    "qvggt.errors",
    "qvggt.data.images",
    "qvggt.geometry",
    "qvggt.models.vggt.config",
    "qvggt.models.loading",
    "qvggt.quant.scheme",
    "qvggt.quant.model",
    "qvggt.quant.checkpoint",
    "qvggt.hub.sharing",
    "qvggt.models.fold_config",
    "qvggt.rotation.fold",
    "qvggt.calib.recipe",
    "qvggt.calib.rtn",
    "qvggt.calib.calibrate",
    "qvggt.export.exporter",
    "qvggt.export.parity",
    "qvggt.engines.runner",
    "qvggt.engines.opening",
    "qvggt.engines.manifest",
    "qvggt.data.co3d",
    "qvggt.eval.harness",
    "qvggt.eval.pose",
    "qvggt.eval.depth",
    "qvggt.eval.report",
)


def source_file(module: str) -> Path:
    """qvggt.export.qdq -> export/qdq.py, qvggt.data.images -> qvggt/data/images.py."""
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in ROOMS:
        parts = parts[1:]
    path = ROOT.joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def parse(module: str) -> ast.Module:
    return ast.parse(source_file(module).read_text(encoding="utf-8"))


def definition(module: str, name: str) -> ast.ClassDef | Function:
    """The class or function of that name, followed through `from ... import name`."""
    for node in parse(module).body:
        if isinstance(node, ast.ClassDef | Function) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return definition(str(node.module), name)
    raise LookupError(f"{module} defines no {name}")


def page() -> str:
    """The whole reference as Markdown."""
    lines = [
        "# API reference",
        "",
        f"qvggt {__version__}. Written from the docstrings by `python tools/api_reference.py`; change those, not this.",
        "",
        "## From Python: `import qvggt`",
        "",
    ]
    for name, module in sorted(PUBLIC.items()):
        home = "qvggt.export.calling" if name == "export" else module
        lines += described(definition(home, name), "qvggt.", "###")
    for module in MODULES:
        tree = parse(module)
        lines += [f"## `{module}`", "", ast.get_docstring(tree) or "", ""]
        for node in tree.body:
            if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                lines += described(node, "", "###")
    return "\n".join(lines).rstrip() + "\n"


def described(node: ast.ClassDef | Function, prefix: str, head: str) -> Iterator[str]:
    """Heading, signature or fields, docstring, then the public methods of a class."""
    yield from (f"{head} `{prefix}{node.name}`", "")
    yield from ("```python", signature(node), "```", "")
    if docstring := ast.get_docstring(node):
        yield from (docstring, "")
    if isinstance(node, ast.ClassDef):
        for item in node.body:
            if isinstance(item, Function) and (not item.name.startswith("_") or item.name == "__call__"):
                yield from (f"- `{signature(item)}`" + indented(ast.get_docstring(item)), "")


def signature(node: ast.ClassDef | Function) -> str:
    """`def f(a: int) -> str`, or `class C(Base)` with its annotated fields."""
    if isinstance(node, ast.ClassDef):
        bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
        fields = [f"    {ast.unparse(item)}" for item in node.body if isinstance(item, ast.AnnAssign)]
        return "\n".join([f"class {node.name}{bases}" + (":" if fields else ""), *fields])
    flags = [ast.unparse(decorator) for decorator in node.decorator_list]
    start = "".join(f"@{flag} " for flag in flags if flag in ("property", "classmethod", "staticmethod"))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{start}def {node.name}({ast.unparse(node.args)}){returns}"


def indented(text: str | None) -> str:
    return "" if not text else ": " + text.replace("\n", "\n  ")


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE} is out of date; run: python tools/api_reference.py", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE}: {len(text.splitlines())} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
