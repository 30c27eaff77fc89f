"""Mutants that nobody could tell from the original, with the reason: judged by hand, not counted in the score."""

from __future__ import annotations

# by the name that `tools/mutation.py` reports: file, the line before and after
EQUIVALENT: dict[str, str] = {}
