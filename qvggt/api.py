"""qvggt from Python. Each call that does work is the job of the command of that name: same fields, same checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, get_args, get_origin

from qvggt.data.images import load_images
from qvggt.engines.opening import open_runner as open_any
from qvggt.engines.registry import RunnerOptions
from qvggt.formats.table import DEFAULT
from qvggt.geometry import decode_pose
from qvggt.hub.loading import load
from qvggt.jobs.build import BuildJob, BuildOutcome
from qvggt.jobs.calibrate import Calibrated, CalibrateJob
from qvggt.jobs.deploy import Deployed, DeployJob
from qvggt.jobs.evaluate import EvaluateJob, Evaluation
from qvggt.jobs.export import ExportJob, ExportResult
from qvggt.jobs.job import Doc, Job, annotation, hints
from qvggt.jobs.lint import LintJob, LintResult
from qvggt.jobs.reconstruct import Reconstruction, ReconstructJob
from qvggt.jobs.source import scheme_of

if TYPE_CHECKING:
    from torch import Tensor

    from qvggt.engines.runner import Runner
    from qvggt.quant.handle import Model

__all__ = [
    "build",
    "calibrate",
    "decode_pose",
    "deploy",
    "evaluate",
    "export_onnx",
    "lint",
    "load",
    "load_images",
    "open_runner",
    "quantize",
    "reconstruct",
]

P = ParamSpec("P")
J = TypeVar("J", bound=Job[Any])
R = TypeVar("R")


def parameters_of(job: Callable[P, J]) -> Callable[[Callable[[J], R]], Callable[P, R]]:
    """A function of a job becomes one of the job's fields; `help` then lists them with what --help says of each."""

    def decorate(function: Callable[[J], R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            return function(job(*args, **options))

        types = hints(job)
        old = sorted(inspect.signature(job).parameters.values(), key=lambda parameter: parameter.name == "overwrite")
        shown = [parameter.replace(annotation=_bare(types[parameter.name])) for parameter in old]
        result = function.__annotations__.get("return", inspect.Signature.empty)
        call.__signature__ = inspect.Signature(shown, return_annotation=result)  # type: ignore[attr-defined]
        docs = {parameter.name: annotation(types[parameter.name], Doc) for parameter in shown}
        lines = [f"    {name}: {doc.help}" for name, doc in docs.items() if doc is not None]
        call.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Parameters:", *lines])
        return call

    return decorate


def _bare(hint: Any) -> Any:
    """A type without its annotations."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


@parameters_of(CalibrateJob)
def calibrate(job: CalibrateJob) -> Calibrated:
    """`qvggt calibrate`: fold rotations and smoothing, learn clips block by block, round; writes a checkpoint.

    The result's `model` is the quantized model. An interrupted call goes on when it is repeated. With plan=True the
    result is what it would cost, and nothing is written.
    """
    return job.run()


def quantize(
    model: Model,
    format: str = DEFAULT,
    *,
    act: str = "dynamic",
    parts: Sequence[str] | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    attention: str = "fp16",
    batches: Sequence[Tensor] | None = None,
) -> Model:
    """A copy of a float model in memory, rounded to nearest: no calibration (see `calibrate`), nothing written.

    format: such as "w8a8" (docs/method.md). act: "dynamic" (a scale per token) or "static" (one per tensor, which needs
    `batches`: image sequences float32 [S, 3, H, W] in [0, 1] to observe ranges on). parts, overrides, attention: as
    --parts, --override and --attention ("fp8" needs `batches` too). The peak is two copies of the weights. QvggtError
    for an unknown word, or a model quantized already.
    """
    from qvggt.jobs.rounding import round_to_nearest

    scheme = scheme_of(format, act, parts, overrides, model.network.config.family)
    return round_to_nearest(model, replace(scheme, attention=attention), batches)


@parameters_of(ExportJob)
def export_onnx(job: ExportJob) -> ExportResult:
    """`qvggt export`: write ONNX with Q/DQ nodes, lint it, and prove it linear by linear, end to end and in AUC@30."""
    return job.run()


@parameters_of(LintJob)
def lint(job: LintJob) -> LintResult:
    """`qvggt lint`: what TensorRT would refuse, get wrong or slow down in an ONNX file."""
    return job.run()


@parameters_of(BuildJob)
def build(job: BuildJob) -> BuildOutcome:
    """`qvggt build`: an engine of an ONNX file, with its manifest and the builder's own layer report."""
    return job.run()


@parameters_of(EvaluateJob)
def evaluate(job: EvaluateJob) -> Evaluation:
    """`qvggt eval`: cameras, depth and points of models and engines on the same frames, with intervals."""
    return job.run()


@parameters_of(ReconstructJob)
def reconstruct(job: ReconstructJob) -> Reconstruction:
    """`qvggt reconstruct`: photographs or a video to a point cloud, a COLMAP model, depth maps and cameras."""
    return job.run()


@parameters_of(DeployJob)
def deploy(job: DeployJob) -> Deployed:
    """`qvggt deploy`: calibrate, export, lint, parity, build, evaluation and report in one resumable call."""
    return job.run()


def open_runner(
    source: str | Path | Model,
    *,
    runtime: str | None = None,
    device: str | None = None,
    providers: Sequence[str] | None = None,
    precision: str | None = None,
    threads: int | None = None,
    cuda_graph: bool = False,
    weight_streaming_budget: float | None = None,
) -> Runner:
    """A `Runner` for an .onnx file, an engine, a checkpoint, or a model by name or in memory; a context manager.

    `runner(images)`: numpy float32 [S, 3, H, W], RGB in [0, 1] -> `Predictions` (pose_enc [S, 9], depth [S, H, W]...).
    Options: see `qvggt.engines.registry.RunnerOptions`; None fits the file. QvggtError for one it has no use for.
    """
    options = RunnerOptions(
        runtime, device, providers, precision, threads, cuda_graph, weight_streaming_budget=weight_streaming_budget
    )
    return open_any(source, options)
