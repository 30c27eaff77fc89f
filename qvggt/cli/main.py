"""The command `qvggt`: one subcommand a job, and the `qvggt-*` names as the same commands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from qvggt.cli import terminal
from qvggt.cli.commands import HELP, application
from qvggt.jobs.job import JOBS, find_job

BELOW = {"eval": ("merge", "report")}
"""Commands that belong under another one."""

NAMES = tuple(name for name in JOBS if not any(name in below for below in BELOW.values()))


class Commands(TyperGroup):
    """The subcommands, each made when it is asked for: a call pays for its own job only."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(NAMES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return make_command(cmd_name) if cmd_name in NAMES else None


app = typer.Typer(cls=Commands, rich_markup_mode=None, context_settings=HELP, invoke_without_command=True)


@app.callback(
    epilog="Each command explains itself: qvggt deploy --help. docs/tutorial.md goes from a checkpoint to an engine."
)
def qvggt(context: typer.Context) -> None:
    """VGGT at low precision: calibrate, export to ONNX Q/DQ, build engines, and check the geometry that comes out."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def make_command(name: str) -> Any:
    """What typer makes of a job."""
    below = BELOW.get(name, ())
    own = application(find_job(name), group=bool(below))
    made: Any = get_command(own)
    made.name = name
    made.params.append(terminal.version_option())
    for other in below:
        made.commands[other] = make_command(other)
    return made


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The script `qvggt`."""
    terminal.run(get_command(app), args, "qvggt")


def alias(name: str, args: Sequence[str] | None = None) -> NoReturn:
    """The script `qvggt-NAME`."""
    terminal.run(make_command(name), args, f"qvggt-{name}")


calibrate, export, lint, build, evaluate, reconstruct, demo, scenes, push, pull = (
    partial(alias, name)
    for name in ("calibrate", "export", "lint", "build", "eval", "reconstruct", "demo", "scenes", "push", "pull")
)
