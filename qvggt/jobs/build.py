"""Build: ONNX -> TensorRT engine, with its manifest and layer report."""

from __future__ import annotations

import shlex
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from qvggt.engines.build_config import BuildConfig, BuilderOptions, capability, check_output
from qvggt.errors import QvggtError
from qvggt.files import check_file
from qvggt.jobs.job import Doc, Job, Place, Result
from qvggt.jobs.places import check_file_place, check_new_file
from qvggt.jobs.words import frame_profile, named_profile
from qvggt.mapping import at_least, between
from qvggt.onnx_view.halves import heads_path
from qvggt.progress import Console

if TYPE_CHECKING:
    from qvggt.engines.builder import Source
    from qvggt.engines.layer_report import LayerReport
    from qvggt.engines.manifest import Manifest

LARGE_SCRATCH = 4_000_000_000  # bytes; of VGGT-1B at 518x518 those of 24 frames
SHOWN = 10  # linears that are not as wanted; the report has them all


@dataclass(frozen=True)
class BuildOutcome(Result):
    """An engine, its manifest and what the builder's layer table says of every quantized linear. heads: the second
    engine of a network in two files."""

    engine: Path
    manifest_path: Path
    report_path: Path
    manifest: Manifest
    report: LayerReport
    heads: BuildOutcome | None = None

    @property
    def passed(self) -> bool:
        return not self.report.failed and (self.heads is None or self.heads.passed)

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {
            "engine": str(self.engine),
            "manifest": str(self.manifest_path),
            "report": str(self.report_path),
            "passed": self.passed,
            "bytes": self.manifest.engine.bytes,
            "seconds": self.manifest.build["seconds"],
            "peak_bytes": self.manifest.build["peak_bytes"],
            "scratch_bytes": self.manifest.build.get("activation_bytes"),
            **self.report.facts(),
            **({} if self.heads is None else {"heads": self.heads.to_dict(folder)}),
        }


@dataclass(frozen=True)
class BuildJob(Job[BuildOutcome]):
    """Build a TensorRT engine of an ONNX file.

    Shows which kernel every quantized linear became.

    Writes OUTPUT, OUTPUT.manifest.json (hashes, origin; runners refuse an engine without it) and OUTPUT.layers.json,
    read from the builder's own layer table; of a trunk of export --split-heads the same for OUTPUT's name with .heads
    before its end. Nothing is run on a GPU: the report says what is planned and stored.
    Exit code 1 when a linear that should be low-bit is not, 2 for a mistake in the call or a graph that is refused.
    """

    name: ClassVar[str] = "build"
    examples: ClassVar[tuple[str, ...]] = (
        "qvggt export tiny --bits w4a4 --target tensorrt -o outputs/tiny-w4a4.onnx",
        "qvggt build outputs/tiny-w4a4.onnx -o outputs/tiny-w4a4.engine --frames 1:4:8 --cc 8.6,8.9,12.0",
        "qvggt build model.onnx -o model.engine --backend trtexec   # saves the command; runs it if it can",
    )

    model: Annotated[Place, Doc("The file to build, from qvggt export or elsewhere.", argument=True, metavar="ONNX")]
    output: Annotated[Place, Doc("Engine to write, ending in .engine or .plan.", ("-o", "--output"))]
    _: KW_ONLY
    backend: Annotated[
        Literal["rtx", "tensorrt", "trtexec"],
        Doc("rtx (TensorRT-RTX, needs no GPU), tensorrt or trtexec (both build where they run)."),
    ] = "rtx"
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"] | None, Doc("Fail unless the network has this float type. [any]")
    ] = None
    frames: Annotated[
        tuple[int, int, int] | None,
        Doc("min:opt:max frame counts. [those of the file, else 1:8:32]", parse=frame_profile),
    ] = None
    profiles: Annotated[
        tuple[tuple[int, int, int], ...],
        Doc(
            "A further min:opt:max, with kernels of its own; may be repeated; all backends.",
            ("--profile",),
            metavar="MIN:OPT:MAX",
            parse=named_profile("--profile"),
        ),
    ] = ()
    compute_capabilities: Annotated[
        tuple[str, ...],
        Doc(
            "GPU compute capabilities, comma-separated; rtx only. [the builder's portable set, or those of it "
            "with kernels for all types in the file]",
            ("--cc",),
            comma=True,
            parse=capability,
        ),
    ] = ()

    timing_cache: Annotated[
        Place | None, Doc("Kernel timings to use again, and to write; tensorrt and trtexec.", metavar="FILE")
    ] = None
    optimization_level: Annotated[
        int | None, Doc("0 to 5: how long to look for kernels; tensorrt and trtexec. [3]"), between(0, 5)
    ] = None
    workspace: Annotated[
        float | None, Doc("GB a kernel may use beside its tensors; all backends. [the GPU's memory]"), at_least(0)
    ] = None
    weight_streaming: Annotated[
        bool, Doc("Let weights stay in host memory at run time (eval --weight-streaming-budget); all backends.")
    ] = False
    version_compatible: Annotated[
        bool, Doc("Build for newer versions of TensorRT too, at some cost; tensorrt and trtexec.")
    ] = False

    def config(self) -> BuildConfig:
        """What the builders read."""
        options = BuilderOptions(
            None if self.timing_cache is None else Path(self.timing_cache),
            self.optimization_level,
            self.workspace,
            self.weight_streaming,
            self.version_compatible,
        )
        return BuildConfig(self.backend, self.precision, self.frames, self.compute_capabilities, self.profiles, options)

    def check(self) -> None:
        self.config()
        check_output(Path(self.output))

    def prepare(self) -> None:
        check_file(Path(self.model), "an ONNX file")
        check_new_file(Path(self.output), self.overwrite)
        if self.timing_cache is not None:
            check_file_place(Path(self.timing_cache))

    def execute(self, console: Console) -> BuildOutcome:
        from qvggt.engines.builder import (
            check_capabilities,
            check_form,
            check_precision,
            plan_trtexec,
            read_source,
        )
        from qvggt.engines.trtexec import find_trtexec
        from qvggt.onnx_view.file import network_files

        config, output = self.config(), Path(self.output)
        sources = [read_source(file) for file in network_files(self.model)]
        outputs = [output, heads_path(output)][: len(sources)]
        for path in outputs[1:]:
            check_new_file(path, self.overwrite)
        check_precision(sources[0], self.precision)
        for source in sources:
            check_form(source, self.backend)
            chosen = check_capabilities(source, config).compute_capabilities
            if chosen != config.compute_capabilities:
                types = ", ".join(sorted(source.facts.types))
                console.result(f"{source.path}: has {types}, so it is built for compute capability {', '.join(chosen)}")
        commands = []
        for source, path in zip(sources, outputs, strict=True):
            if source.format.wrong:
                console.warn(f"{source.path}: {source.format.wrong}")
            if self.backend == "trtexec":
                command, saved = plan_trtexec(source, path, config)
                commands.append(str(saved))
                console.result(shlex.join(command))
                console.result(f"command: {saved}")
        if commands and find_trtexec() is None:
            where = f"run {' and '.join(commands)} where TensorRT is installed"
            raise QvggtError(f"trtexec: not on PATH, so nothing was built; {where}")
        # heads first, as a trunk is what is opened; in a bf16 network they are fp32
        heads = [
            self._built(source, path, replace(config, precision=None, profiles=()), console)
            for source, path in zip(sources[1:], outputs[1:], strict=True)
        ]
        return replace(self._built(sources[0], output, config, console), heads=next(iter(heads), None))

    def _built(self, source: Source, output: Path, config: BuildConfig, console: Console) -> BuildOutcome:
        """Build one file and say what came of it."""
        from qvggt.engines.builder import build_engine
        from qvggt.engines.manifest import manifest_path

        built = build_engine(source, output, config)
        manifest, report = built.manifest, built.report
        seconds, peak, scratch = (manifest.build.get(name) for name in ("seconds", "peak_bytes", "activation_bytes"))
        console.result(
            f"{output}: {manifest.backend} {manifest.backend_version}, {manifest.precision} network, "
            f"{manifest.engine.bytes / 1e6:.2f} MB, {seconds:.1f} s"
            + ("" if peak is None else f", peak {peak / 1e9:.2f} GB")
        )
        if scratch is not None:
            console.result(f"scratch memory for the largest shapes: {scratch / 1e6:.1f} MB")
            if scratch > LARGE_SCRATCH and source.metadata.entries and source.metadata.half is None:
                console.say("most of it is the dense heads': qvggt export --split-heads bounds it (docs/storage.md)")
        if report.linears:
            console.say(report.table())
        console.result(report.summary)
        console.say("nothing was run on a GPU: speed and numbers of the engine are not measured")
        console.say(f"manifest: {manifest_path(output)}, report: {built.report_path}")
        for verdict in report.failed[:SHOWN]:
            console.warn(f"not as wanted: {verdict.path}: {verdict.wanted} expected, {verdict.found}: {verdict.note}")
        return BuildOutcome(output, manifest_path(output), built.report_path, manifest, report)
