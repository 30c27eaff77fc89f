"""qvggt-push: a calibrated checkpoint or an exported ONNX file to the Hugging Face Hub, with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from qvggt.cli.common import application
from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvggt.hub.sharing import Bundle

app, main = application()

EPILOG = """
\b
Examples:
  qvggt-push outputs/tiny-w4a4 me/tiny-w4a4 --metrics outputs/eval.json
  qvggt-push outputs/tiny-w4a4 me/tiny-w4a4 --card-only
  qvggt-push outputs/tiny-w4a4.onnx me/tiny-w4a4-onnx --private

Log in first with `hf auth login`, or set HF_TOKEN. HF_ENDPOINT names another Hub.
"""


@app.command(epilog=EPILOG)
def push(
    checkpoint: Annotated[Path, Argument(help="Calibrated checkpoint directory, or an .onnx file.")],
    repository: Annotated[str, Argument(help="Hub id OWNER/NAME; made when it is not there.")],
    metrics: Annotated[
        Path | None, Option(help="Report of `qvggt-eval --json` on this very file, for the card.")
    ] = None,
    licence: Annotated[
        str | None, Option(help="Hub licence id for the card. [apache-2.0 for tiny, else other]")
    ] = None,
    private: Annotated[bool, Option("--private", help="Make a new repository private.")] = False,
    branch: Annotated[str | None, Option(help="Branch to write, made when it is not there. [main]")] = None,
    card_only: Annotated[bool, Option("--card-only", help="Print the model card and stop; no network.")] = False,
    force: Annotated[bool, Option(help="Write to a repository that holds other files too.")] = False,
) -> None:
    """Upload a calibrated checkpoint (quant.json, model.safetensors) or an ONNX file, with a generated model card."""
    from qvggt.files import read_object
    from qvggt.hub.card import model_card
    from qvggt.hub.sharing import check_repository, checkpoint_bundle
    from qvggt.hub.sharing import push as push_bundle

    check_repository(repository)
    report = None if metrics is None else read_object(metrics, "a report of qvggt-eval --json")
    if checkpoint.suffix.lower() == ".onnx":
        bundle = onnx_bundle(checkpoint, repository, report, licence)
    else:
        bundle = checkpoint_bundle(checkpoint, repository, metrics=report, licence=licence)
    if card_only:
        typer.echo(model_card(bundle.facts), nl=False)
        return
    pushed = push_bundle(bundle, private=private, branch=branch, replace=force)
    total = sum(path.stat().st_size for path in bundle.files.values())
    typer.echo(f"{pushed.repository}: {', '.join(pushed.files)} ({total / 1e6:.2f} MB)")
    typer.echo(f"commit {pushed.commit.id}: {pushed.commit.url}")


def onnx_bundle(path: Path, repository: str, metrics: Mapping[str, Any] | None, licence: str | None) -> Bundle:
    """An .onnx file, its external data and its parity report; QvggtError for a file that is damaged or not ours."""
    from qvggt.engines.network_file import file_scheme
    from qvggt.files import file_sha256
    from qvggt.hub.card import CardFacts
    from qvggt.hub.sharing import ONNX_FILE, Bundle
    from qvggt.onnx_view.file import open_onnx
    from qvggt.quant.checkpoint import Provenance

    opened = open_onnx(path)
    source, scheme = opened.metadata.source, file_scheme(opened.metadata)
    if source is None:
        raise QvggtError(f"{path}: carries no qvggt.source, so it is no file of qvggt-export; export it again")
    report = path.with_name(path.name + ".parity.json")
    files = {p.name: p for p in (path, *opened.data, *([report] if report.is_file() else []))}
    odd = [name for name in files if not ONNX_FILE.fullmatch(name)]
    if odd:
        raise QvggtError(f"{path}: cannot push a file named {odd[0]!r}; expected letters, digits, - _ . and NAME.onnx")
    sizes = {name: p.stat().st_size for name, p in files.items()}
    provenance = Provenance(source=source)
    facts = CardFacts("onnx", repository, path.name, file_sha256(path), sizes, scheme, provenance, metrics, licence)
    return Bundle(facts, files)
