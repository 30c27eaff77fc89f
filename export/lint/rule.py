"""The registry of rules: each is a function that yields the places where a model breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qvggt.export.lint.finding import Finding, Severity
from qvggt.onnx_view.graph import Model
from qvggt.target import Target

ALL = frozenset(Target)
TENSORRT = frozenset({Target.TENSORRT})


@dataclass(frozen=True)
class Place:
    """Where a rule is broken; `detail` is what was found there, put behind the rule's reason."""

    node: str
    op: str
    detail: str = ""


Check = Callable[[Model], Iterable[Place]]


@dataclass(frozen=True)
class Rule:
    """A stable id, one line on why, one on what to do, and for which targets it holds."""

    id: str
    name: str
    severity: Severity
    reason: str
    fix: str
    targets: frozenset[Target]
    check: Check

    def findings(self, model: Model) -> list[Finding]:
        return [
            Finding(
                self.id,
                self.name,
                self.severity,
                place.node,
                place.op,
                f"{self.reason} ({place.detail})" if place.detail else self.reason,
                self.fix,
            )
            for place in self.check(model)
        ]


RULES: dict[str, Rule] = {}


def rule(
    id: str, name: str, severity: Severity, *, reason: str, fix: str, targets: frozenset[Target] = TENSORRT
) -> Callable[[Check], Check]:
    """Register a check; the id is what users and their scripts rely on, so it is never used again for another rule."""

    def register(check: Check) -> Check:
        assert id not in RULES, f"rule {id} exists"
        RULES[id] = Rule(id, name, severity, reason, fix, targets, check)
        return check

    return register
