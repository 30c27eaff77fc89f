"""Command lines run in this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import typer

from qvggt.cli import main
from qvggt.cli.terminal import run


def call(command: str | typer.Typer, *args: object) -> int:
    """The exit code of `qvggt COMMAND args`."""
    words = [str(arg) for arg in args]
    start = partial(main.main, [command, *words]) if isinstance(command, str) else partial(run, command, words)
    with pytest.raises(SystemExit) as caught:
        start()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def mistake(capsys: pytest.CaptureFixture[str], command: str | typer.Typer, *args: object) -> str:
    """The one line with which a wrong command line ends."""
    code = call(command, *args)
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def interrupted(real: Callable[..., Any], calls: list[int], at: int) -> Callable[..., Any]:
    """`real`, but its `at`-th call is a Ctrl-C; `calls` grows with each."""

    def stand_in(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*args)

    return stand_in
