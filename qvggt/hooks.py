"""Looking at what modules are given and return while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def hooked(model: nn.Module, paths: Iterable[str], see: Callable[..., object], outputs: bool = False) -> Iterator[None]:
    """Call see(path, module, input) before each of these modules runs, or with `outputs` see(path, module, input,
    output) after it. What it returns is ignored. The hooks are gone at the end, whatever was raised.
    """

    def hook(path: str) -> Callable[..., None]:
        def run(module: nn.Module, inputs: tuple[Any, ...], *output: Any) -> None:  # a result would replace what it saw
            see(path, module, inputs[0], *output)

        return run

    with ExitStack() as stack:
        for path in paths:
            module = model.get_submodule(path)
            register = module.register_forward_hook if outputs else module.register_forward_pre_hook
            stack.callback(register(hook(path)).remove)
        yield
