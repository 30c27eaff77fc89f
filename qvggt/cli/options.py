"""Options that several commands have, word for word."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from qvggt.cli.common import OVERRIDE_HELP, PARTS_HELP

Models = Annotated[
    list[str] | None,
    Option(metavar="NAME", help="tiny, vggt-1b, a weights file, a Hub id or a calibrated checkpoint; may be repeated."),
]
Parts = Annotated[str, Option(help=PARTS_HELP)]
Overrides = Annotated[
    list[str] | None,
    Option(help=OVERRIDE_HELP),
]
Threads = Annotated[int | None, Option(min=1, help="CPU threads. [all cores]")]
Device = Annotated[str | None, Option(help="cpu or cuda. [cpu; of engine files cuda]")]
FrameSeed = Annotated[int, Option(help="Seed of the frames drawn.")]
Revision = Annotated[str | None, Option(help="Hub revision (commit, tag or branch) to pin.")]
Offline = Annotated[bool, Option(help="Never use the network.")]
Show = Annotated[bool, Option("--open", help="Open the page in a browser.")]
