"""Looking at what modules are given and return while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

Watcher = Callable[..., object]


@contextmanager
def watching(watchers: Iterable[tuple[nn.Module, Watcher]], outputs: bool = False) -> Iterator[None]:
    """Call each watcher with (module, inputs) before its module runs, or with `outputs` (module, inputs, output) after.

    What a watcher returns is ignored. The hooks are gone at the end, whatever was raised.
    """
    with ExitStack() as stack:
        for module, watcher in watchers:
            register = module.register_forward_hook if outputs else module.register_forward_pre_hook
            stack.callback(register(_silent(watcher)).remove)
        yield


def _silent(watcher: Watcher) -> Callable[..., None]:
    """The watcher without its result, which a hook would put in place of what it saw."""

    def hook(*seen: Any) -> None:
        watcher(*seen)

    return hook
