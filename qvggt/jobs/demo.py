"""Demo: a local page to look at reconstructions."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from qvggt.engines.registry import split_files
from qvggt.errors import QvggtError
from qvggt.hub.names import hub_id
from qvggt.jobs.candidates import check_precision, precision_for
from qvggt.jobs.job import Doc, Job, Place, Result
from qvggt.jobs.options import Device, Fit, Models, Offline, Precision, Show, Threads
from qvggt.jobs.source import check_source
from qvggt.mapping import at_least, between
from qvggt.progress import Console

if TYPE_CHECKING:
    from qvggt.eval.demo.workshop import Choice

TINY = "tiny"


@dataclass(frozen=True)
class Served(Result):
    """A page that is closed by now: its local address, and the networks it offered."""

    url: str
    choices: tuple[str, ...]

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class DemoJob(Job[Served]):
    """Serve a local page around reconstructions.

    Drop images, see points and cameras, compare two networks, download GLB and COLMAP files.
    """

    name: ClassVar[str] = "demo"
    examples: ClassVar[tuple[str, ...]] = (
        "qvggt demo   # the tiny model, to see how it works",
        "qvggt demo --model facebook/VGGT-1B --engine vggt-w4a4.onnx   # compare float and quantized side by side",
    )
    more: ClassVar[str] = """\
The page is served on 127.0.0.1 only, sends no analytics, loads nothing from other hosts, and deletes uploads and
results when the command ends (Ctrl-C). --share opens Gradio's public tunnel: anyone with the link can then use it.
"""

    _: KW_ONLY
    models: Models = ()
    engines: Annotated[
        tuple[Place, ...],
        Doc(
            "An exported model or engine, or FILE,FILE,... at several image sizes; may be repeated.",
            ("--engine",),
            metavar="FILE",
        ),
    ] = ()
    port: Annotated[int, Doc("Port on 127.0.0.1."), between(1, 65535)] = 7860
    max_images: Annotated[int, Doc("Per reconstruction."), at_least(1)] = 32
    max_mb: Annotated[int, Doc("Per image file."), at_least(1)] = 30
    share: Annotated[bool, Doc("Also serve it to the internet, through Gradio.")] = False
    open_page: Show = False
    device: Device = None
    precision: Precision = None
    fit: Fit = "crop"
    offline: Offline = False
    threads: Threads = None

    def prepare(self) -> None:
        for source in self.models:
            check_source(source)
        check_precision(self.precision, self.models or (() if self.engines else (TINY,)))
        for path in (file for engine in self.engines for file in split_files(engine)):
            if not Path(str(path)).exists():
                raise QvggtError(f"{path}: no such file or folder; expected a model or engine")

    def execute(self, console: Console) -> Served:
        from qvggt.engines.cuda import check_gpu
        from qvggt.engines.registry import kinds_of
        from qvggt.engines.torch_runner import check_device
        from qvggt.eval.demo.page import HOST, build_page, import_gradio, launch
        from qvggt.eval.demo.workshop import Limits, Workshop
        from qvggt.eval.reconstruction.config import ReconstructionConfig
        from qvggt.eval.reconstruction.folder import check_libraries

        check_libraries(ReconstructionConfig(), [])
        for path in self.engines:
            if kinds_of(path)[0].device == "cuda":
                check_gpu(path, self.device or "cuda")
        check_device(self.device or "cpu")
        workshop = Workshop(self.choices(), Limits(self.max_images, self.max_mb), self.device, self.fit)
        url = f"http://{HOST}:{self.port}"
        os.environ["GRADIO_TEMP_DIR"] = str(workshop.folder / "uploads")  # goes with the rest
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop cleans up, too
        try:
            import_gradio()
            page = build_page(workshop)
            reach = "AND THE PUBLIC INTERNET (--share)" if self.share else "on this machine only"
            console.result(f"{url} {reach}; Ctrl-C ends it")
            launch(page, workshop, port=self.port, share=self.share, open_it=self.open_page)
        finally:
            workshop.close()
        return Served(url, tuple(workshop.choices))

    def choices(self) -> list[Choice]:
        """The networks of the page by name, opened when first used; the tiny model where none is asked for."""
        from qvggt.engines.opening import open_runner
        from qvggt.eval.demo.workshop import Choice

        models: Sequence[Any] = self.models or (() if self.engines else (TINY,))
        on = partial(open_runner, device=self.device)
        load = partial(on, offline=self.offline)
        return [
            *(Choice(_name(m), partial(load, m, precision=precision_for(m, self.precision))) for m in models),
            *(Choice(_name(path), partial(on, path, threads=self.threads)) for path in self.engines),
        ]


def _name(model: Any) -> str:
    """What the page calls a model: one in memory by its own name, files without their folders."""
    if not isinstance(model, str | Path):
        return str(model.name)
    if model == TINY or hub_id(model):
        return str(model)
    return ", ".join(Path(str(file)).name for file in split_files(model))
