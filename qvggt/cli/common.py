"""How every command starts and ends: exit codes, one-line errors, --version."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.main import get_command

from qvggt import __version__
from qvggt.errors import QvggtError
from qvggt.files import reason
from qvggt.models.family import find_family

FAMILY = find_family()  # whose words help texts name
PATCH = FAMILY.patch_size
WORDS = ",".join(FAMILY.exportable)
DEFAULT_PARTS = ",".join(FAMILY.default_parts)
PARTS_HELP = f"Parts to quantize: {', '.join(FAMILY.part_names)}."
OVERRIDE_HELP = f"PATTERN=BITS for modules whose path matches, e.g. '{FAMILY.override_example}=w4a16'; repeatable."

T = TypeVar("T")

USER_ERROR = 2
LONGEST = 900  # characters of an error
INTERRUPTED = 130  # what a shell reports for a process ended by Ctrl-C

# typer carries its own click since 0.16 and uses the separate package before; both name the base class so
ClickException: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def application() -> tuple[typer.Typer, Callable[[], NoReturn]]:
    """A command to be, and the function that its script calls."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    return app, partial(run, app)


def run(app: typer.Typer, args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (sys.argv without `args`) and leave the process.

    QvggtError and a wrong call end with one line "error: ..." on stderr and exit code 2, Ctrl-C with 130; typer.Exit
    keeps its code. Any other exception is a fault of the program and passes with its traceback.
    """
    command: Any = get_command(app)
    command.params.append(version_option())
    try:
        code = command.main(args=None if args is None else list(args), standalone_mode=False)
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
    return f"{error.format_message().strip().rstrip('.')}{hint}"


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


def given_options(context: typer.Context) -> tuple[str, ...]:
    """Names of the parameters the user wrote on the command line, rather than left at their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return tuple(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


def filled(cls: type[T], options: Mapping[str, Any], **others: Any) -> T:
    """A dataclass made of the options named as its fields, and of `others`; options: the locals of a command."""
    names = {field.name for field in fields(cls)} & options.keys()  # type: ignore[arg-type]
    return cls(**{name: options[name] for name in names} | others)


def check_writable(path: Path) -> None:
    """Before long work: whether a file can be written at `path`, found out by trying; QvggtError otherwise."""
    if path.exists() and not path.is_file():
        raise QvggtError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}, expected a file to write")
    check_place(path)


def check_output(path: Path, force: bool) -> None:
    """As `check_place`, for a checkpoint's directory: what is there already is replaced with `force` alone."""
    check_place(path)
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]) and not force:
        raise QvggtError(f"{path}: exists already; choose another directory, or --force to replace a checkpoint")


def check_place(path: Path) -> None:
    """As `check_writable`, for a file or a folder."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise QvggtError(
            f"{path}: cannot be written ({reason(error)} at {folder}); choose a place where you may write"
        ) from error
