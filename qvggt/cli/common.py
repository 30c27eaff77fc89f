"""What every command shares: one-line errors, exit codes, the version flag."""

from __future__ import annotations

import sys

import click
import typer

from qvggt import __version__
from qvggt.errors import QvggtError

MISTAKE = 2
INTERRUPTED = 130


def run(app: typer.Typer) -> None:
    """Run a command and exit: 0 done, 1 a check failed, 2 a mistake of the user (one line on stderr), 130 Ctrl-C.

    Anything else is a defect of ours and keeps its traceback.
    """
    if "--version" in sys.argv[1:]:
        print(f"qvggt {__version__}")
        sys.exit(0)
    try:
        code = app(standalone_mode=False)
    except QvggtError as error:
        fail(str(error))
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        fail(error.format_message())
    else:
        sys.exit(code if isinstance(code, int) else 0)


def fail(message: str) -> None:
    """Print one line and exit with 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(MISTAKE)
