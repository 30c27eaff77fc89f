"""How every command starts and ends: exit codes, one-line errors, --version, what is printed where."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from qvggt import __version__
from qvggt.errors import QvggtError
from qvggt.progress import Console

USER_ERROR = 2
LONGEST = 900  # characters of an error
INTERRUPTED = 130  # what a shell reports for a process ended by Ctrl-C

# typer carries its own click since 0.16 and uses the separate package before; both name the base class so
ClickException: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class Terminal(Console):
    """The words of a job on stdout, warnings on stderr. level: -1 (-q), 0, 1 (-v). apart: stdout is for JSON alone.
    json: where the result goes; `saved` once one with more to come lies there."""

    def __init__(self, level: int = 0, apart: bool = False, json: Path | None = None) -> None:
        self.level = level
        self.apart = apart
        self.json, self.saved = json, False
        self.bars = level >= 0

    def detail(self, text: str) -> None:
        if self.level > 0:
            self.result(text)

    def say(self, text: str) -> None:
        if self.level >= 0:
            self.result(text)

    def result(self, text: str) -> None:
        typer.echo(text, err=self.apart)

    def so_far(self, result: Any) -> None:
        if self.json is not None:
            result.save(self.json)
            self.saved = True

    def warn(self, text: str) -> None:
        typer.echo(text, err=True)


def run(command: Any, args: Sequence[str] | None = None, name: str | None = None) -> NoReturn:
    """Run a command line (sys.argv without `args`) and leave the process. command: a Typer app or what it becomes.

    QvggtError and a wrong call end with one line "error: ..." on stderr and exit code 2, Ctrl-C with 130; typer.Exit
    keeps its code. Any other exception is a fault of the program and passes with its traceback.
    """
    command = get_command(command) if isinstance(command, typer.Typer) else command
    if all(parameter.name != "version" for parameter in command.params):
        command.params.append(version_option())
    try:
        code = command.main(args=None if args is None else list(args), prog_name=name, standalone_mode=False)
    except QvggtError as error:
        fail(str(error))
    except ClickException as error:
        fail(usage(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str) -> NoReturn:
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(USER_ERROR)


def one_line(message: str) -> str:
    """A message fit for a terminal: it may quote a damaged file, or a word of any length."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


def usage(error: Any) -> str:
    """The message of a click error, and where to look it up."""
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    message = error.format_message().strip().rstrip(".").replace(": Value error, ", ": ")  # pydantic's, inside typer
    return f"{message}{hint}"


def version_option() -> Any:
    """The option --version, made by typer itself so that it fits the click it uses."""
    donor = typer.Typer(add_completion=False)

    @donor.command()
    def command(
        version: Annotated[
            bool,
            typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit."),
        ] = False,
    ) -> None:
        pass

    option = get_command(donor).params[0]
    option.expose_value = False  # the commands do not take it
    return option


def show_version(value: bool) -> None:
    if value:
        typer.echo(f"qvggt {__version__}")
        raise typer.Exit
