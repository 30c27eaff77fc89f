"""qvggt-pull: a calibrated checkpoint or an exported ONNX file from the Hugging Face Hub, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from qvggt.cli.common import application, check_place
from qvggt.cli.options import Revision

app, main = application()

EPILOG = """
\b
Examples:
  qvggt-pull me/tiny-w4a4 -o outputs/tiny-w4a4
  qvggt-pull me/tiny-w4a4 -o outputs/tiny-w4a4 --revision 0123abc
"""


@app.command(epilog=EPILOG)
def pull(
    repository: Annotated[str, Argument(help="Hub id OWNER/NAME.")],
    output: Annotated[Path, Option("-o", "--output", help="Directory to write.")],
    revision: Revision = None,
    offline: Annotated[bool, Option(help="Never use the network: the Hub cache only.")] = False,
    force: Annotated[bool, Option(help="Replace an earlier pull of the same kind.")] = False,
) -> None:
    """Download what qvggt-push uploaded and check it: a checkpoint is loaded, an ONNX file opened.

    Only the files of such an upload are taken; nothing is unpickled and nothing is run.
    """
    from qvggt.hub.sharing import pull as pull_bundle

    check_place(output)
    pulled = pull_bundle(repository, output, revision=revision, offline=offline, replace=force, check_onnx=check_onnx)
    typer.echo(f"{output}: {', '.join(pulled.files)} of {repository} at commit {pulled.commit}")


def check_onnx(path: Path) -> None:
    """QvggtError for a damaged model, or external data that is missing or leaves the folder."""
    from qvggt.onnx_view.file import open_onnx

    open_onnx(path)
