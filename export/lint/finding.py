"""What a rule found: where, why it matters, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """error: the model does not build, or computes something else. warning: it loses a low-bit kernel."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One rule broken at one node (or tensor, for findings about stored data)."""

    rule: str
    name: str
    severity: Severity
    node: str
    op: str
    reason: str
    fix: str

    def line(self) -> str:
        text = f"{self.severity.value} {self.rule} {self.name} at {self.node} ({self.op}): {self.reason}; {self.fix}"
        return " ".join(text.split())  # names in a file may hold anything
