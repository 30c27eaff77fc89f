"""Functions that are named, so that the module they lie in is imported when they are first called."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

Function = str | Callable[..., Any]
"""A function, or "module:function"."""


def function(target: Function) -> Callable[..., Any]:
    """What a `Function` names, imported now."""
    found: Callable[..., Any] = resolve_name(target) if isinstance(target, str) else target
    return found
