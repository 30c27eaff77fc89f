"""Folding in float64, whatever type the weights are stored in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def in_float64(*parts: nn.Module | nn.Parameter) -> Iterator[None]:
    """Hold the parameters of `parts` in float64 inside the block, then round each to its own type, once.

    Parameters keep their identity; their storage is new, since loaded weights may be mapped from a file.
    """
    parameters = [
        (p, p.dtype) for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else [part])
    ]
    with torch.no_grad():
        for p, _ in parameters:
            p.data = p.data.double()
        try:
            yield
        finally:
            for p, dtype in parameters:
                p.data = p.data.to(dtype)
