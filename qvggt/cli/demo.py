"""qvggt-demo: a local page to look at reconstructions."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from qvggt.cli.common import application
from qvggt.cli.options import Device, Models, Offline, Show, Threads
from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from qvggt.eval.demo.workshop import Choice

app, main = application()

EPILOG = """
\b
Examples:
  qvggt-demo                                                   the tiny model, to see how it works
  qvggt-demo --model facebook/VGGT-1B --engine vggt-w4a4.onnx  compare float and quantized side by side

The page is served on 127.0.0.1 only, sends no analytics, loads nothing from other hosts, and deletes uploads and
results when the command ends (Ctrl-C). --share opens Gradio's public tunnel: anyone with the link can then use it.
"""


@app.command(epilog=EPILOG)
def demo(
    model: Models = None,
    engine: Annotated[
        list[Path] | None, Option(metavar="FILE", help="An exported model or engine; may be repeated.")
    ] = None,
    port: Annotated[int, Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 7860,
    max_images: Annotated[int, Option(min=1, help="Per reconstruction.")] = 32,
    max_mb: Annotated[int, Option(min=1, help="Per image file.")] = 30,
    share: Annotated[bool, Option("--share", help="Also serve it to the internet, through Gradio.")] = False,
    open_page: Show = False,
    threads: Threads = None,
    device: Device = None,
    offline: Offline = False,
) -> None:
    """Serve a page: drop images, see points and cameras, compare two networks, download GLB and COLMAP files."""
    from qvggt.eval.demo.page import HOST, build_page, import_gradio, launch
    from qvggt.eval.demo.workshop import Limits, Workshop
    from qvggt.eval.reconstruction.config import ReconstructionConfig
    from qvggt.eval.reconstruction.folder import check_libraries

    check_libraries(ReconstructionConfig(), [])
    choices = _choices(model or [], engine or [], device, threads, offline)
    workshop = Workshop(choices, Limits(max_images, max_mb), device)
    os.environ["GRADIO_TEMP_DIR"] = str(workshop.folder / "uploads")  # goes with the rest
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop cleans up, too
    try:
        import_gradio()
        page = build_page(workshop)
        reach = "AND THE PUBLIC INTERNET (--share)" if share else "on this machine only"
        typer.echo(f"http://{HOST}:{port} {reach}; Ctrl-C ends it")
        launch(page, workshop, port=port, share=share, open_it=open_page)
    finally:
        workshop.close()


def _choices(
    models: list[str], engines: list[Path], device: str | None, threads: int | None, offline: bool
) -> list[Choice]:
    """Networks by name, opened when first used; what is plainly not there is said at once."""
    import torch

    from qvggt.engines.opening import open_runner
    from qvggt.engines.torch_runner import check_device
    from qvggt.eval.demo.workshop import Choice
    from qvggt.hub.names import hub_id

    if threads is not None:
        torch.set_num_threads(threads)
    check_device(device or "cpu")
    if not models and not engines:
        models = ["tiny"]
    for path in [*engines, *(Path(name) for name in models if name != "tiny" and hub_id(name) is None)]:
        if not path.exists():
            raise QvggtError(f"{path}: no such file or folder; expected a model or engine")
    names = [name if name == "tiny" or hub_id(name) else Path(name).name for name in models]
    opened = [partial(open_runner, name, device=device, offline=offline) for name in models]
    names += [path.name for path in engines]
    opened += [partial(open_runner, path, device=device, threads=threads) for path in engines]
    return [Choice(name, function) for name, function in zip(names, opened, strict=True)]
