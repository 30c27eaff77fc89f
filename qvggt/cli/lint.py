"""qvggt-lint: what TensorRT would refuse, get wrong or slow down in an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from qvggt.cli.common import application
from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from qvggt.export.lint import Finding
    from qvggt.target import Target

app, main = application()

SHOWN = 5  # places of one rule in the text; JSON has them all


@app.command(epilog="Example: qvggt-lint outputs/tiny-w4a4.onnx --format json")
def lint(
    model: Annotated[Path, Argument(help="An ONNX file, of qvggt-export or of any other tool.")],
    target: Annotated[
        str, Option(help="tensorrt: all rules. cpu: those on the file itself (bytes, external data).")
    ] = "tensorrt",
    format: Annotated[str, Option(help="text or json.")] = "text",
) -> None:
    """Check an ONNX file against what TensorRT is known to refuse, miscompile or run in floating point.

    Reads the file only: no GPU, no TensorRT, no weights. Errors are models that do not build or compute something
    else; warnings lose a low-bit kernel. Exit code 1 for errors, 2 for a file that cannot be read.
    """
    from qvggt.export.lint import errors, lint_model
    from qvggt.target import Target

    if target not in [t.value for t in Target]:
        raise QvggtError(f"--target {target!r}: expected one of {', '.join(t.value for t in Target)}")
    if format not in ("text", "json"):
        raise QvggtError(f"--format {format!r}: expected text or json")
    findings = lint_model(model, Target(target))
    if format == "json":
        typer.echo(json.dumps(as_json(model, target, findings), indent=1))
    else:
        for line in lines(findings):
            typer.echo(line)
        typer.echo(f"{model}: {summary(findings)} for {target}")
    if errors(findings):
        raise typer.Exit(1)


def lint_file(model: Path, target: Target) -> bool:
    """Lint a file that was just written and print what is found; False when there are errors."""
    from qvggt.export.lint import errors, lint_model

    findings = lint_model(model, target)
    for line in lines(findings):
        typer.echo(line, err=True)
    typer.echo(f"lint: {summary(findings)} for {target.value}")
    return not errors(findings)


def as_json(model: Path, target: str, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "model": str(model),
        "target": target,
        "errors": sum(f.severity.value == "error" for f in findings),
        "warnings": sum(f.severity.value == "warning" for f in findings),
        "findings": [asdict(f) for f in findings],
    }


def lines(findings: Sequence[Finding]) -> list[str]:
    """One line a finding, the first few of each rule."""
    shown = []
    for rule in dict.fromkeys(f.rule for f in findings):
        mine = [f for f in findings if f.rule == rule]
        shown += [f.line() for f in mine[:SHOWN]]
        if len(mine) > SHOWN:
            shown.append(f"... and {rule} at {len(mine) - SHOWN} other places")
    return shown


def summary(findings: Sequence[Finding]) -> str:
    kinds = ("error", "warning")
    count = [sum(f.severity.value == kind for f in findings) for kind in kinds]
    return " and ".join(f"{n} {kind}{'' if n == 1 else 's'}" for n, kind in zip(count, kinds, strict=True))
