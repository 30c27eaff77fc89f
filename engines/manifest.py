"""What an engine file was made of, written beside it: a runner opens no engine whose manifest does not match.

An engine is executable code for the GPU, so it is only as trustworthy as its origin. The manifest is not a signature:
it finds mix-ups, truncation and files swapped by accident, and says where an engine comes from (DESIGN 6).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from qvggt.engines.build_config import BACKENDS
from qvggt.errors import QvggtError
from qvggt.files import check_file, file_sha256, line, reason
from qvggt.mapping import Check, Count, Sha256, from_mapping

VERSION = 1
SUFFIX = ".manifest.json"
LARGEST = 16 << 20  # bytes: a manifest is a few kB

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class FileFact:
    """A file by its name without folders, SHA-256 (64 hex digits) and size."""

    name: str
    sha256: Sha256
    bytes: Count

    @classmethod
    def of(cls, path: Path, name: str = "") -> FileFact:
        """Hash and measure a file; QvggtError when it cannot be read. `name` replaces that of a temporary file."""
        return cls(name or path.name, file_sha256(path), path.stat().st_size)


Files = Annotated[tuple[FileFact, ...], Check("a list of files", bool)]
Backend = Annotated[str, Check(f"one of {', '.join(BACKENDS)}", BACKENDS.__contains__)]


@dataclass(frozen=True)
class Manifest:
    """Origin of one engine file.

    onnx: the model, then its external data files. backend: "rtx", "tensorrt" or "trtexec"; backend_version: of the
    builder; an engine runs on that version only, "unknown" for a trtexec that did not say. precision: float type of the
    network. profile: input name -> (min, opt, max) shapes; profiles: further ones. options: of the builder, those that
    were given. compute_capabilities: such as ("8.6", "8.9"), empty for the
    builder's own choice. scheme: `Scheme.to_dict()` of the export, None for an ONNX file without one. metadata: the
    `qvggt.*` properties of the ONNX file. report: summary of the layer report. created: UTC, ISO 8601. build: seconds,
    peak resident bytes, weight bytes, whatever was measured. partner: name of the other engine of a network in two.
    """

    engine: FileFact
    onnx: Files
    backend: Backend
    backend_version: str
    precision: str
    profile: Mapping[str, Shapes]
    compute_capabilities: tuple[str, ...]
    scheme: Mapping[str, Any] | None
    metadata: Mapping[str, str]
    report: Mapping[str, Any]
    created: str
    build: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[Mapping[str, Shapes], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    partner: str | None = None
    version: int = VERSION

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"


def manifest_path(engine: str | Path) -> Path:
    """Where the manifest of an engine lies: `<engine>.manifest.json`."""
    engine = Path(engine)
    return engine.with_name(engine.name + SUFFIX)


def runtime_of(engine: str | Path) -> str:
    """The runtime that an engine file runs in; QvggtError as `read_manifest`."""
    return "rtx" if read_manifest(engine).backend == "rtx" else "tensorrt"


def read_manifest(engine: str | Path) -> Manifest:
    """The manifest beside an engine file; QvggtError when it is missing or is no manifest. Hashes nothing."""
    path = manifest_path(engine)
    if not path.is_file():
        raise QvggtError(
            f"{engine}: has no manifest {path.name} beside it, so its origin is unknown; "
            "build it with qvggt build, or copy both files"
        )
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ValueError(f"{size} bytes, expected at most {LARGEST}")
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("version") != VERSION:
            raise ValueError(f"version {values.get('version')!r}, expected {VERSION}")
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); check it, or build again") from error
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise QvggtError(f"{path}: not a manifest of this version ({line(error)}); build again") from error
    return from_mapping(Manifest, values, f"{path}: not a manifest of this version", advice="build again")


def check_engine(engine: str | Path) -> Manifest:
    """The manifest of an engine whose bytes are the ones it names; reads the whole file once.

    QvggtError when the engine or its manifest is missing, damaged, or the two do not belong together.
    """
    engine = Path(engine)
    check_file(engine, "an engine file")
    manifest = read_manifest(engine)
    size = engine.stat().st_size
    if size != manifest.engine.bytes:
        raise QvggtError(
            f"{engine}: has {size} bytes, its manifest says {manifest.engine.bytes}: truncated or replaced; build again"
        )
    sha256 = file_sha256(engine)
    if sha256 != manifest.engine.sha256:
        raise QvggtError(
            f"{engine}: sha256 {sha256[:12]}..., its manifest says {manifest.engine.sha256[:12]}...: changed "
            "or replaced since it was built; do not run it, build again"
        )
    return manifest


def check_onnx(manifest: Manifest, onnx: FileFact) -> None:
    """QvggtError when the engine was built from another ONNX file than this one."""
    if manifest.onnx[0].sha256 != onnx.sha256:
        raise QvggtError(
            f"{manifest.engine.name}: was built from {manifest.onnx[0].name} of sha256 "
            f"{manifest.onnx[0].sha256[:12]}..., expected {onnx.sha256[:12]}...; build again"
        )
