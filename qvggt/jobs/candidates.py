"""What an evaluation compares: models and engine files, and how each is opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvggt.engines.registry import file_suffixes, kind_of, kinds_of, split_files, split_runtime
from qvggt.errors import QvggtError
from qvggt.files import check_file
from qvggt.hub.names import hub_id
from qvggt.jobs.job import Place, Source
from qvggt.jobs.source import check_source, is_calibrated

if TYPE_CHECKING:
    from qvggt.engines.runner import Runner

PROVIDER = re.compile(r"cpu|cuda|tensorrt|\w+ExecutionProvider")


@dataclass(frozen=True)
class Candidates:
    """Models come first, whatever the order of the call.

    engines: FILE or FILE,FILE,... (one network at several image sizes), also with RUNTIME: in front, see
    `split_files` and `split_runtime`. device None: the CPU, but a GPU for engine
    files. precision: of the float models. providers: of ONNX Runtime. revision: of the Hub ids among the models.
    weight_streaming_budget: of engines.
    """

    models: Sequence[Source]
    engines: Sequence[Place]
    device: str | None = None
    providers: Sequence[str] = ()
    revision: str | None = None
    offline: bool = False
    precision: str | None = None
    weight_streaming_budget: float | None = None

    @property
    def in_memory(self) -> bool:
        """Whether a model is none that another process, or another day, could open."""
        return not all(isinstance(model, str | Path) for model in self.models)

    def check(self) -> None:
        """QvggtError for options that contradict each other, or have no use."""
        if not self.models and not self.engines:
            raise QvggtError("nothing to evaluate: give --model, --engine or both")
        for model in self.models:
            if isinstance(model, str | Path) and str(model).lower().endswith(".onnx"):
                raise QvggtError(f"--model {model}: is an ONNX file; give it with --engine")
        for text in self.engines:
            runtime, files = split_runtime(str(text))
            for path in map(str, split_files(files)):
                if Path(path).suffix.lower() not in file_suffixes():
                    raise QvggtError(
                        f"--engine {path}: expected an .onnx file or an engine ({', '.join(file_suffixes()[1:])}); "
                        "give checkpoints with --model"
                    )
                if runtime is not None and all(kind.name != runtime for kind in kinds_of(path)):
                    kind_of(path, runtime)  # says which runtime does
        if self.revision is not None and not any(map(_on_hub, self.models)):
            raise QvggtError(f"--revision {self.revision}: no --model is a Hub id; leave it out")
        for name in self.providers:
            if not PROVIDER.fullmatch(name):
                raise QvggtError(f"--provider {name}: expected cpu, cuda, tensorrt or as in CPUExecutionProvider")
        if self.providers and not any("providers" in options for _, options in self.sources()):
            raise QvggtError(f"--provider {self.providers[0]}: no --engine runs in ONNX Runtime; leave it out")
        budget = self.weight_streaming_budget
        if budget is not None and not any("weight_streaming_budget" in options for _, options in self.sources()):
            raise QvggtError(f"--weight-streaming-budget {budget}: no --engine is one of TensorRT; leave it out")

    def prepare(self) -> None:
        """QvggtError for a local file that is not there, and for a precision that no model takes."""
        for model in self.models:
            check_source(model)
        check_precision(self.precision, self.models)
        for text in self.engines:
            for path in split_files(split_runtime(str(text))[1]):
                check_file(Path(str(path)), f"an engine or another file of {', '.join(file_suffixes())}")

    def sources(self, threads: int | None = None) -> list[tuple[Source, dict[str, Any]]]:
        """(source, options of `open_runner`, JSON-ready) of every candidate."""
        shared = {"device": self.device, "threads": threads, "offline": self.offline}
        sources: list[tuple[Source, dict[str, Any]]] = [
            (
                model,
                {
                    **shared,
                    "revision": self.revision if _on_hub(model) else None,
                    "precision": precision_for(model, self.precision),
                },
            )
            for model in self.models
        ]
        for text in self.engines:
            runtime, path = split_runtime(str(text))
            kind = next(kind for kind in kinds_of(path) if runtime in (None, kind.name))
            given = {"providers": list(self.providers) or None, "weight_streaming_budget": self.weight_streaming_budget}
            use = {name: value for name, value in given.items() if value is not None and name in kind.uses}
            sources.append((path, {**shared, "runtime": runtime, **use}))
        return sources

    def open(self, stack: ExitStack, threads: int) -> list[Runner]:
        """All of them, until the stack closes; labels that occur twice are numbered, as reports name candidates so."""
        from qvggt.engines.opening import open_runner

        sources, models = self.sources(threads), len(self.models)
        # engines first: opening them is fast and finds most mistakes
        opened = [stack.enter_context(open_runner(source, **options)) for source, options in sources[models:]]
        loaded = [stack.enter_context(open_runner(source, **options)) for source, options in sources[:models]]
        seen: dict[str, int] = {}
        for runner in (runners := [*loaded, *opened]):
            seen[runner.label] = seen.get(runner.label, 0) + 1
            if seen[runner.label] > 1:
                runner.label = f"{runner.label} ({seen[runner.label]})"
        return runners


def check_precision(precision: str | None, models: Sequence[Source]) -> None:
    """QvggtError for one that is given without a float model."""
    if precision is not None and all(map(is_calibrated, models)):
        what = "calibrated checkpoints compute in fp32 what they leave in floats" if models else "there is no --model"
        raise QvggtError(f"--precision {precision}: is of float models, and {what}; leave it out")


def precision_for(model: Source, precision: str | None) -> str | None:
    """What a model is opened with: a calibrated one has its own."""
    return None if is_calibrated(model) else precision


def _on_hub(model: Source) -> bool:
    return isinstance(model, str) and hub_id(model) is not None
