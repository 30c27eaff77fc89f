"""ONNX file -> engine with its manifest and layer report, all of them or none (DESIGN 6)."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from qvggt import __version__
from qvggt.engines.build_config import FRAMES, BuildConfig, check_output
from qvggt.engines.compatibility import capability_here, least_capability, portable_set, why_not
from qvggt.engines.layer_report import LayerReport, layer_report
from qvggt.engines.layer_table import rows_by_profile, rows_of_inspector, rows_of_log
from qvggt.engines.manifest import FileFact, Manifest, Shapes, manifest_path
from qvggt.engines.network_file import file_scheme
from qvggt.engines.trt_build import Built, build_with_python, check_timing_cache
from qvggt.engines.trtexec import find_trtexec, run_trtexec, save_command, trtexec_command
from qvggt.errors import QvggtError
from qvggt.files import atomic_write, sibling
from qvggt.onnx_view.documented import undocumented_int4
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph_format import GraphFormat, graph_format
from qvggt.onnx_view.halves import Half, group_profile, heads_path, trunk_path
from qvggt.onnx_view.metadata import Metadata
from qvggt.onnx_view.network_facts import NetworkFacts, network_facts
from qvggt.quant.scheme import Scheme
from qvggt.versions import versions

REPORT_SUFFIX = ".layers.json"


@dataclass(frozen=True)
class Source:
    """An ONNX file as a build sees it.

    scheme: of the metadata, None where the graph is of another format. stamps: sizes and times of its files, to notice
    a change during the build. undocumented: the INT4 in it that TensorRT itself does not take.
    """

    path: Path
    files: tuple[Path, ...]
    facts: NetworkFacts
    metadata: Metadata
    scheme: Scheme | None
    stamps: tuple[tuple[int, int], ...]
    format: GraphFormat
    undocumented: Sequence[str] = ()

    @property
    def float_type(self) -> str:
        """What the graph shows, else what the exporter says."""
        stated = self.metadata.text("precision")
        return stated if stated is not None and self.facts.float_type == "unknown" else self.facts.float_type

    @property
    def label(self) -> str:
        """The format in a table, as a runner of the file has it."""
        return self.format.label(None if self.scheme is None else self.scheme.label)


@dataclass(frozen=True)
class BuildResult:
    """A written engine with what lies beside it."""

    engine: Path
    manifest: Manifest
    report: LayerReport
    report_path: Path


def report_path(engine: str | Path) -> Path:
    """Where the layer report of an engine lies: `<engine>.layers.json`."""
    engine = Path(engine)
    return engine.with_name(engine.name + REPORT_SUFFIX)


def read_source(path: str | Path) -> Source:
    """Open and check an ONNX file and its external data; QvggtError for one that is missing, corrupt or unsafe."""
    path, opened = Path(path), open_onnx(path)
    files, metadata = (path, *opened.data), opened.metadata
    scheme, format = file_scheme(metadata), graph_format(opened)
    scheme = None if format.wrong else scheme
    facts, int4 = network_facts(opened), undocumented_int4(opened)
    return Source(path, files, facts, metadata, scheme, _stamps(files), format, int4)


def plan_profiles(source: Source, config: BuildConfig) -> tuple[dict[str, Shapes], ...]:
    """`plan_profile` of the first and of the further profiles; dense heads apart see groups of all, so they have one.
    QvggtError for further ones where the file fixes its shapes."""
    if config.profiles and source.metadata.half is Half.HEADS:
        every = (config.frames or source.metadata.frames or FRAMES, *config.profiles)
        lows, opts, highs = zip(*every, strict=True)
        config = replace(config, frames=(min(lows), max(opts), max(highs)), profiles=())
    first = plan_profile(source, config)
    if config.profiles and not first:
        raise QvggtError(
            f"--profile {':'.join(map(str, config.profiles[0]))}: {source.path} fixes its shapes; leave it out"
        )
    return (first, *(plan_profile(source, replace(config, frames=frames)) for frames in config.profiles))


def plan_profile(source: Source, config: BuildConfig) -> dict[str, Shapes]:
    """Input name -> (min, opt, max) shapes of every input with a symbolic dimension; empty when there is none.

    The one symbolic dimension of an input is the frame count, of dense heads apart that of a group. QvggtError for an
    input with several, and for frame counts asked of a file that fixes them.
    """
    frames = config.frames or source.metadata.frames or FRAMES
    if source.metadata.half is Half.HEADS:
        frames = group_profile(frames)
    profile: dict[str, Shapes] = {}
    for name, dims in source.facts.inputs.items():
        free = dims.count(None)
        if free > 1:
            shape = ", ".join("?" if d is None else str(d) for d in dims)
            raise QvggtError(
                f"{source.path}: input {name} [{shape}] has {free} symbolic dimensions, expected one, the frame count; "
                "fix the others at export"
            )
        if free:
            low, opt, high = (tuple(count if d is None else d for d in dims) for count in frames)
            profile[name] = (low, opt, high)
    if not profile and config.frames is not None and len(set(config.frames)) > 1:
        raise QvggtError(f"--frames {':'.join(map(str, config.frames))}: {source.path} fixes its shapes; leave it out")
    return profile


def check_precision(source: Source, precision: str | None) -> None:
    """QvggtError when the network has another float type than `precision`: a builder takes types as they are."""
    if precision is not None and source.float_type != precision:
        raise QvggtError(
            f"--precision {precision}: {source.path} is an {source.float_type} network, and TensorRT keeps the types "
            f"of the file; export it with qvggt export --precision {precision}, or leave --precision out"
        )


def check_form(source: Source, backend: str) -> None:
    """QvggtError for INT4 that a backend does not take."""
    if backend != "rtx" and (found := source.undocumented):
        raise QvggtError(
            f"--backend {backend}: {source.path} has INT4 that TensorRT does not take, {len(found)} times "
            f"({found[0]}), only weights in blocks of 64 or 128: export it with --target tensorrt --backend tensorrt, "
            "or build with --backend rtx"
        )


def check_capabilities(source: Source, config: BuildConfig) -> BuildConfig:
    """The config with the GPUs an engine of the file is for: those asked for, else of the builder's portable set those
    with kernels for all types in the file. QvggtError where one that was asked for has none."""
    types, label = source.facts.types, f"{source.path} is {source.label}"
    if config.backend != "rtx":  # builds for the GPU it runs on
        here = capability_here() if types else ""
        if reason := why_not(config.backend, capability=here, types=types):
            raise QvggtError(f"--backend {config.backend}: {label}, and {reason}; export another format for this GPU")
        return config
    for wanted in config.compute_capabilities:
        if reason := why_not("rtx", capability=wanted, types=types):
            raise QvggtError(
                f"--cc {wanted}: {label}, and {reason}; build for {least_capability('rtx', types)} or newer, or export "
                "another format (--bits w8a8 runs everywhere)"
            )
    return replace(config, compute_capabilities=config.compute_capabilities or portable_set(types))


def plan_trtexec(source: Source, output: Path, config: BuildConfig) -> tuple[list[str], Path]:
    """The trtexec command of a build, saved beside `output`; returns it and where it was saved."""
    command = trtexec_command(source.path, output.name, plan_profiles(source, config), config.options)
    return command, save_command(output, command)


def build_engine(source: Source, output: str | Path, config: BuildConfig, shown: bool = True) -> BuildResult:
    """Build `source` into the engine file `output`, with `<output>.manifest.json` and `<output>.layers.json`.

    The three appear together, the manifest last, after everything else succeeded; until then what was there stays. A
    report that failed is written as well: its `passed` says so. QvggtError for a file, place or setting that cannot be,
    for a backend that is not installed and for a graph it refuses. `shown`: a progress bar.
    """
    output = Path(output)
    check_output(output)
    check_precision(source, config.precision)
    check_form(source, config.backend)
    config = check_capabilities(source, config)
    profiles = plan_profiles(source, config)
    check_timing_cache(config.options)
    hashed = tuple(FileFact.of(file) for file in source.files)
    with (
        atomic_write(manifest_path(output)) as manifest_slot,
        atomic_write(report_path(output)) as report_slot,
        atomic_write(output) as engine,  # renamed first: until the manifest follows, the old one matches no engine
        _folder(output) as folder,
    ):
        if config.backend == "trtexec":
            built = _with_trtexec(source, output, engine, folder, config, shown)
        else:
            built = build_with_python(source.path, engine, folder, config, profiles, shown)
        inspected = built.table.lstrip().startswith("{") or (built.table != "" and config.backend == "trtexec")
        rows = rows_of_inspector(built.table) if inspected else rows_of_log(built.table)
        if _stamps(source.files) != source.stamps:
            raise QvggtError(f"{source.path}: changed while it was built; nothing was written, build again")
        memory = built.weight_bytes, built.activation_bytes
        reports = [layer_report(source.facts, part, *memory, source.label) for part in rows_by_profile(rows) or [rows]]
        report = max(reports, key=lambda report: len(report.failed))  # the profile that has most of them
        manifest = Manifest(
            engine=FileFact.of(engine, output.name),
            onnx=hashed,
            backend=config.backend,
            backend_version=built.version,
            precision=source.float_type,
            profile=profiles[0],
            profiles=profiles[1:],
            options=config.options.given(),
            compute_capabilities=config.compute_capabilities,
            scheme=None if source.scheme is None else json.loads(source.scheme.to_json()),
            metadata=source.metadata.entries,
            report=report.facts(),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            build=built.facts(),
            versions={"qvggt": __version__, **versions(("onnx", "tensorrt-rtx", "tensorrt"))},
            partner=_partner(source, output),
        )
        manifest_slot.write_text(manifest.to_json(), encoding="utf-8")
        report_slot.write_text(report.to_json(), encoding="utf-8")
    return BuildResult(output, manifest, report, report_path(output))


def _partner(source: Source, output: Path) -> str | None:
    """Name of the engine that this one runs with."""
    paths = {Half.TRUNK: heads_path, Half.HEADS: trunk_path}
    half = source.metadata.half
    return None if half is None else paths[half](output).name


def _with_trtexec(source: Source, output: Path, engine: Path, folder: Path, config: BuildConfig, shown: bool) -> Built:
    command, saved = plan_trtexec(source, output, config)
    binary = find_trtexec()
    if binary is None:
        raise QvggtError(f"trtexec: not on PATH, so nothing was built; run {saved} where TensorRT is installed")
    built = run_trtexec(binary, command, folder, source.path, shown)
    if not (folder / output.name).is_file():
        raise QvggtError(f"{source.path}: trtexec ended well but wrote no engine; nothing was written")
    os.replace(folder / output.name, engine)
    return built


@contextmanager
def _folder(output: Path) -> Iterator[Path]:
    """An empty hidden folder beside `output`, gone at the end of the block."""
    folder = sibling(Path(os.path.realpath(output)))
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stamps(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file in files))
