"""Progress bars with an ETA: silent for short work, sparse in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def bar(
    items: Iterable[Any] | None = None, *, total: int | None = None, desc: str, unit: str, shown: bool = True
) -> Any:
    """A tqdm bar over `items`, or to be moved by hand; appears after a second, in a log file after twenty.

    It leaves nothing behind, so that a command's own output and its one-line errors stay readable.
    """
    from tqdm import tqdm

    log = not sys.stderr.isatty()
    return tqdm(
        items,
        total=total,
        desc=desc,
        unit=unit,
        disable=not shown,
        leave=False,
        dynamic_ncols=not log,
        delay=20 if log else 1,
        mininterval=30 if log else 0.2,
    )
