"""The registry of rules, and what they find: where, why it matters, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from qvggt.onnx_view.graph import Model, Node
from qvggt.target import Target

ALL = frozenset(Target)
TENSORRT = frozenset({Target.TENSORRT, Target.TENSORRT_10})
RTX = frozenset({Target.TENSORRT})
PROPER = frozenset({Target.TENSORRT_10})  # not RTX
SEEN = "seen in TensorRT-RTX 1.7.1"
UNTRIED = f"{SEEN}, not tried in TensorRT"
DOCUMENTED = "NVIDIA's documentation of TensorRT 10 and 11"
CPU = frozenset({Target.CPU})


class Severity(str, Enum):
    """error: the model does not build, or computes something else. warning: it loses a low-bit kernel."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One rule broken at one node (or tensor, for findings about stored data). evidence: for which TensorRT, and how it
    is known; "" for what is wrong in the file itself."""

    rule: str
    name: str
    severity: Severity
    node: str
    op: str
    reason: str
    fix: str
    evidence: str = ""

    def line(self) -> str:
        text = f"{self.severity.value} {self.rule} {self.name} at {self.node} ({self.op}): {self.reason}; {self.fix}"
        text += f" [{self.evidence}]" if self.evidence else ""
        return " ".join(text.split())  # names in a file may hold anything


@dataclass(frozen=True)
class Place:
    """Where a rule is broken; `detail` is what was found there, put behind the rule's reason."""

    label: str
    op: str
    detail: str = ""


@dataclass(frozen=True)
class Rule:
    """A stable id, one line on why, one on what to do, and for which targets it holds. documented: for TensorRT itself.
    spared: operators it is silent on for TensorRT itself."""

    id: str
    name: str
    severity: Severity
    reason: str
    fix: str
    targets: frozenset[Target]
    check: Callable[[Model], Iterable[Place]]
    documented: bool = False
    spared: frozenset[str] = frozenset()

    def evidence(self, target: Target) -> str:
        """Of its findings for a target."""
        if self.targets == ALL or target is Target.CPU:
            return ""
        return SEEN if target is Target.TENSORRT else DOCUMENTED if self.documented else UNTRIED

    def findings(self, model: Model, target: Target) -> list[Finding]:
        found, evidence = [], self.evidence(target)
        for place in self.check(model):
            if target is Target.TENSORRT_10 and place.op in self.spared:
                continue
            reason = f"{self.reason} ({place.detail})" if place.detail else self.reason
            found.append(Finding(self.id, self.name, self.severity, place.label, place.op, reason, self.fix, evidence))
        return found


RULES: dict[str, Rule] = {}


def nodes(model: Model) -> Iterator[Node]:
    """What most rules on operators look at, one by one."""
    return model.nodes


def rule(
    id: str,
    name: str,
    severity: Severity,
    each: Callable[[Model], Iterable[Any]] | None = None,
    targets: frozenset[Target] = TENSORRT,
    documented: bool = False,
    spared: frozenset[str] = frozenset(),
) -> Callable[[Callable[[Any], Iterable[Any]]], Callable[[Any], Iterable[Any]]]:
    """Register a check under an id, which users and their scripts rely on: never use one again for another rule.

    Its docstring is what users read: why it matters, then, after "Fix:", what to do. With `each` (`nodes`,
    `quantizers`, `products`) the check gets these one by one and yields what is wrong with it, "" for no more than the
    reason says; otherwise it gets the model and yields places.
    """

    def register(check: Callable[[Any], Iterable[Any]]) -> Callable[[Any], Iterable[Any]]:
        def places(model: Model) -> Iterator[Place]:
            for item in each(model) if each is not None else ():
                yield from (Place(item.label, item.op, detail) for detail in check(item))

        reason, _, fix = (" ".join(part.split()).rstrip(".") for part in (check.__doc__ or "").partition("Fix:"))
        assert id not in RULES, f"rule {id} exists"
        found = check if each is None else places
        RULES[id] = Rule(id, name, severity, reason, fix, targets, found, documented, spared)
        return check

    return register
