"""What a program hears of long work: the words of a job, and bars with an ETA that stay away for short work."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_BARS: ContextVar[bool] = ContextVar("bars", default=True)


class Console:
    """Where a job's words go. This one keeps silent but for warnings, and shows bars: what Python programs get."""

    bars: bool = True

    def detail(self, text: str) -> None:
        """What only those want who asked for more (-v)."""

    def say(self, text: str) -> None:
        """What is going on."""

    def result(self, text: str) -> None:
        """What the job was run for; heard under -q too."""

    def so_far(self, result: Any) -> None:
        """A result that more is to come to: what is kept should the rest fail."""

    def warn(self, text: str) -> None:
        """What must not be missed, one line on stderr."""
        print(text, file=sys.stderr)


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Whether bars appear in the block, whatever its functions say."""
    token = _BARS.set(shown and _BARS.get())
    try:
        yield
    finally:
        _BARS.reset(token)


def bar(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    desc: str,
    unit: str,
    shown: bool = True,
    even: bool = True,
) -> Any:
    """A tqdm bar over `items`, or to be moved by hand; appears after a second, in a log file after twenty.

    even: items take about as long as each other; the ETA of others is made of the mean of all, not of the latest.
    It leaves nothing behind, so that a command's own output and its one-line errors stay readable.
    """
    from tqdm import tqdm

    log = not sys.stderr.isatty()
    return tqdm(
        items,
        total=total,
        desc=desc,
        unit=unit,
        disable=not (shown and _BARS.get()),
        leave=False,
        dynamic_ncols=not log,
        delay=20 if log else 1,
        smoothing=0.3 if even else 0,
        mininterval=30 if log else 0.2,
    )
