"""CPU threads: how a process waits for them, how many it uses, and how many a result was computed with.

Sums that several threads share are added in another order for every count, so results of different counts differ by
float noise, which learning and rounding amplify. The count is therefore recorded beside every result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

WAIT = "OMP_WAIT_POLICY"


def wait_passively() -> None:
    """Let idle OpenMP threads sleep instead of spin, unless the user has said how they wait.

    Spinning threads take the processor from those that have work as soon as the machine runs anything else
    (docs/development.md has the figures). OpenMP reads the variable when torch is loaded: call this before.
    """
    os.environ.setdefault(WAIT, "PASSIVE")


@contextmanager
def pinned(threads: int | None) -> Iterator[int]:
    """Run a block with so many threads (None: as many as torch has now); yields the count, puts the old one back."""
    import torch

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
