"""Legality lint: what TensorRT would refuse, get wrong or slow down in an ONNX model, without a GPU or TensorRT."""

from __future__ import annotations

from pathlib import Path

import onnx

from qvggt.export.lint import (
    attention,
    documented,
    formats,
    fp4,
    granularity,
    onnx_runtime,
    operators,
    placement,
    scales,
    stored,
)
from qvggt.export.lint.rule import RULES, Finding, Rule, Severity
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph import Model
from qvggt.target import Target

__all__ = ["RULES", "Finding", "Rule", "Severity", "errors", "lint_model"]

# imported for their rules
_MODULES = (attention, formats, scales, granularity, fp4, placement, stored, operators, onnx_runtime, documented)


def lint_model(model: onnx.ModelProto | str | Path, target: Target = Target.TENSORRT) -> list[Finding]:
    """Every finding of the rules that hold for `target`, by rule id and then in the order of the nodes.

    model: a path, or a model in memory without external data. Weights are not loaded: of a file with external data
    only scales, zero points and, where float16 sums may overflow, int8 codes are read. A weight that may not be read
    is a finding itself and unknown to the other rules. QvggtError for a file that is no ONNX model.

    target: `tensorrt` means TensorRT-RTX, `tensorrt-10` TensorRT itself; `cpu` has the rules on the file itself only,
    since ONNX Runtime and OpenVINO run every Q/DQ form.
    """
    view = Model(model) if isinstance(model, onnx.ModelProto) else open_onnx(model, strict=False)
    rules = [RULES[id] for id in sorted(RULES) if target in RULES[id].targets]
    return [finding for rule in rules for finding in rule.findings(view, target)]


def errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is Severity.ERROR]
