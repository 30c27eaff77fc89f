"""The trtexec command of a build: written down exactly, and run where the binary is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from qvggt.engines.build_config import BuilderOptions
from qvggt.engines.compatibility import too_old
from qvggt.engines.manifest import Shapes
from qvggt.engines.trt_build import Built
from qvggt.errors import QvggtError
from qvggt.files import atomic_write, reason
from qvggt.progress import bar

BINARY = "trtexec"
LAYER_INFO = "layers.json"
TICK = 1.0  # seconds


def trtexec_command(
    onnx: Path, engine: str, profiles: Sequence[Mapping[str, Shapes]], options: BuilderOptions | None = None
) -> list[str]:
    """Arguments that build `onnx` (by its absolute path) into the file name `engine` in the current folder.

    No precision flags: networks are strongly typed, and TensorRT 11 removed them. Written after NVIDIA's documentation
    of TensorRT 10.12 and 11; not run on a GPU by this project.
    """
    command = [
        BINARY,
        f"--onnx={os.path.abspath(onnx)}",
        "--stronglyTyped",
        f"--saveEngine={engine}",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={LAYER_INFO}",
        "--skipInference",
    ]
    for number, profile in enumerate(profiles):
        command += [f"--profile={number}"] if len(profiles) > 1 else []
        for i, word in enumerate(("min", "opt", "max")):
            if profile:
                shapes = ",".join(f"{name}:{'x'.join(map(str, shapes[i]))}" for name, shapes in profile.items())
                command.append(f"--{word}Shapes={shapes}")
    return command + ([] if options is None else _words(options))


def _words(options: BuilderOptions) -> list[str]:
    words = []
    if options.timing_cache is not None:
        words.append(f"--timingCacheFile={os.path.abspath(options.timing_cache)}")
    if options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.workspace_bytes is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_bytes}B")
    if options.weight_streaming:
        words.append("--allowWeightStreaming")
    if options.version_compatible:
        words.append("--versionCompatible")
    return words


def command_path(engine: Path) -> Path:
    """Where the command of an engine is kept: `<engine>.trtexec.sh`."""
    return engine.with_name(engine.name + ".trtexec.sh")


def save_command(engine: Path, command: list[str]) -> Path:
    """Write the command as a shell script, atomically; returns its path."""
    path = command_path(engine)
    with atomic_write(path) as temporary:
        temporary.write_text(f"#!/bin/sh\n{shlex.join(command)}\n", encoding="utf-8")
    return path


def find_trtexec() -> str | None:
    """The binary on PATH, None without one."""
    return shutil.which(BINARY)


def run_trtexec(binary: str, command: list[str], folder: Path, onnx: Path, shown: bool = True) -> Built:
    """Run the command in `folder`, where the engine and its layer information are left; QvggtError when it fails.

    The result has the version it printed or "unknown", and as its table the layer information JSON or "".
    """
    log, start = folder / "trtexec.log", time.monotonic()
    try:
        with (
            open(log, "wb") as output,
            subprocess.Popen([binary, *command[1:]], cwd=folder, stdout=output, stderr=subprocess.STDOUT) as process,
            bar(desc=f"trtexec {onnx.name}", unit="s", shown=shown) as progress,
        ):
            try:
                while process.poll() is None:
                    try:
                        process.wait(TICK)
                    except subprocess.TimeoutExpired:
                        progress.update(1)
                        check_version(log)  # it is the first line: an old one is stopped before it has built anything
            finally:
                process.kill()
    except OSError as error:
        raise QvggtError(f"{binary}: cannot be run ({reason(error)}); check it, or use --backend rtx") from error
    text = check_version(log)
    if process.returncode != 0:
        raise QvggtError(f"{onnx}: trtexec ended with {process.returncode}: {last_error(text)}; nothing was written")
    layers = folder / LAYER_INFO
    info = layers.read_text(encoding="utf-8", errors="replace") if layers.is_file() else ""
    return Built(version(text), time.monotonic() - start, info)


def check_version(log: Path) -> str:
    """What it has printed so far; QvggtError when that names a TensorRT that is too old."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if reason := too_old("trtexec", version(text)):
        raise QvggtError(reason)
    return text


def version(log: str) -> str:
    """Such as "10.12.0" of "[TensorRT v101200]"; "unknown" when the log does not say."""
    match = re.search(r"\[TensorRT v(\d+)(\d\d)(\d\d)\]", log)
    return "unknown" if match is None else ".".join(str(int(part)) for part in match.groups())


def last_error(log: str) -> str:
    """The last line marked as an error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "[E]" in line]
    return ((errors or lines or ["no output"])[-1])[:300]
