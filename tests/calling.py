"""Command lines run in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
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


LIGHT = """
import contextlib, io, json, sys
from qvggt.cli.main import main
for line in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: main(line)
        except SystemExit as done: code = done.code
    print(json.dumps([code, out.getvalue(), err.getvalue(), sorted({name.split(".")[0] for name in sys.modules})]))
"""


@cache
def light_calls(
    lines: tuple[tuple[str, ...], ...], folder: Path
) -> dict[tuple[str, ...], tuple[int, str, str, set[str]]]:
    """Each of many calls of `qvggt`, one after the other in one fresh interpreter in `folder`: exit code, stdout,
    stderr, and the packages that were loaded by then."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], input=json.dumps(lines), capture_output=True, text=True, check=True, cwd=folder
    )
    found = [json.loads(text) for text in done.stdout.splitlines()]
    return {line: (code, out, err, set(names)) for line, (code, out, err, names) in zip(lines, found, strict=True)}
