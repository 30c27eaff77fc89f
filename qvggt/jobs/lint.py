"""Lint: what TensorRT would refuse, get wrong or slow down in an ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from qvggt.errors import QvggtError
from qvggt.files import check_file
from qvggt.jobs.gpus import Capabilities, unfit
from qvggt.jobs.job import Doc, Job, Place, Result
from qvggt.jobs.options import Backend
from qvggt.progress import Console
from qvggt.target import Target

if TYPE_CHECKING:
    from qvggt.export.lint import Finding

SHOWN = 5  # places of one rule in the text; JSON has them all, and so has -v


@dataclass(frozen=True)
class LintResult(Result):
    """What was found in a file."""

    model: Path
    target: Target
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return not self.count("error")

    def count(self, severity: str) -> int:
        """Findings of a severity, "error" or "warning"."""
        return sum(finding.severity.value == severity for finding in self.findings)

    @property
    def summary(self) -> str:
        """Such as "0 errors and 1 warning"."""
        counts = {kind: self.count(kind) for kind in ("error", "warning")}
        return " and ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items())

    def tell(self, hear: Callable[[str], None], console: Console) -> None:
        """One line a finding, the first few of each rule; the others are details."""
        for rule in dict.fromkeys(finding.rule for finding in self.findings):
            mine = [finding.line() for finding in self.findings if finding.rule == rule]
            for line in mine[:SHOWN]:
                hear(line)
            if len(mine) > SHOWN:
                hear(f"... and {rule} at {len(mine) - SHOWN} other places")
            for line in mine[SHOWN:]:
                console.detail(line)

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {
            "model": str(self.model),
            "target": self.target.words[0],
            "backend": None if self.target is Target.CPU else self.target.words[1],
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "findings": [asdict(finding) for finding in self.findings],
        }


@dataclass(frozen=True)
class LintJob(Job[LintResult]):
    """Find what TensorRT refuses or gets wrong in ONNX.

    Every rule was seen to matter in TensorRT-RTX (it refuses, miscompiles or runs in floating point) or is what NVIDIA
    documents for TensorRT 10 and 11; each finding says which.

    Reads the file only: no GPU, no TensorRT, no weights. Errors are models that do not build or compute something
    else; warnings lose a low-bit kernel. Exit code 1 for errors, 2 for a file that cannot be read.
    """

    name: ClassVar[str] = "lint"
    examples: ClassVar[tuple[str, ...]] = ("qvggt lint outputs/tiny-w4a4.onnx --json -",)

    model: Annotated[Place, Doc("An ONNX file, of qvggt export or of any other tool.", argument=True)]
    _: KW_ONLY
    target: Annotated[
        Literal["tensorrt", "cpu"],
        Doc("tensorrt: all rules. cpu: those on the file itself (bytes, external data)."),
    ] = "tensorrt"
    backend: Backend = "rtx"
    compute_capabilities: Capabilities = ()

    def check(self) -> None:
        target = Target.of(self.target, self.backend)
        if self.compute_capabilities and target is Target.CPU:
            raise QvggtError("--cc: is for --target tensorrt; leave one of them out")

    def prepare(self) -> None:
        check_file(Path(self.model), "an ONNX file")

    def execute(self, console: Console) -> LintResult:
        result = lint_file(Path(self.model), Target.of(self.target, self.backend), self.compute_capabilities)
        result.tell(console.result, console)
        console.result(f"{self.model}: {result.summary} for {result.target.label}")
        return result


def lint_file(model: Path, target: Target, capabilities: Sequence[str] = ()) -> LintResult:
    """Of a trunk, its heads too; for GPUs of these compute capabilities. QvggtError for a file that cannot be read, and
    for heads that are not a trunk's."""
    from qvggt.export.lint import lint_model
    from qvggt.onnx_view.file import network_files, open_onnx
    from qvggt.onnx_view.network_facts import network_facts

    findings: list[Finding] = []
    for file in network_files(model):
        if capabilities:
            types = network_facts(open_onnx(file, strict=False)).types
            findings += unfit(Path(file), types, capabilities, target)
        findings += lint_model(file, target)
    return LintResult(model, target, tuple(findings))
