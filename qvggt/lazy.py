"""Functions that are named, so that the module they lie in is imported when they are first called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

from qvggt.errors import QvggtError

Function = str | Callable[..., Any]
"""A function, or "module:function"."""


def function(target: Function) -> Callable[..., Any]:
    """What a `Function` names, imported now."""
    return resolve_name(target) if isinstance(target, str) else target


def optional(module: str, advice: str) -> Any:
    """A module of a package that not everybody has; QvggtError with the advice where it cannot be imported."""
    try:
        return import_module(module)
    except ImportError as error:
        raise QvggtError(advice) from error
