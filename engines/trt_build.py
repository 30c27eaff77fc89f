"""Starts the building process, follows it, and turns what it answers into a result or one line of error."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvggt.engines.build_config import BuildConfig, BuilderOptions, enum_name
from qvggt.engines.compatibility import NAMES
from qvggt.engines.manifest import Shapes
from qvggt.engines.tensorrt_module import MODULES
from qvggt.errors import QvggtError
from qvggt.files import atomic_write
from qvggt.progress import bar

INSTALL = {
    "rtx": "pip install '.[rtx]' in the clone (Linux or Windows, x86-64)",
    "tensorrt": "pip install '.[gpu]' in the clone, or use --backend rtx, which needs no GPU",
}
TIMINGS = "timings.cache"
# TensorRT-RTX spends 95 % of a build in one step of its progress monitor, so the bar counts processor seconds, towards
# what networks of this size took: 0.4 s for 362 layers, 28 s for 8021, 172 s for 24005
SECONDS, LAYERS, POWER = 172.0, 24005, 1.6
NO_GPU = ("CUDA driver version is insufficient", "no CUDA-capable device", "CUDA initialization failure")


@dataclass(frozen=True)
class Built:
    """What a build measured; table: the builder's layer table as text, empty where it gave none."""

    version: str
    seconds: float
    table: str
    layers: int | None = None
    peak_bytes: int | None = None
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    warnings: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """The part a manifest keeps."""
        values = {name: value for name, value in vars(self).items() if name not in ("version", "table")}
        return values | {"seconds": round(self.seconds, 2), "warnings": list(self.warnings)}


def build_with_python(
    onnx: Path,
    engine: Path,
    folder: Path,
    config: BuildConfig,
    profiles: Sequence[Mapping[str, Shapes]],
    shown: bool = True,
) -> Built:
    """Build `onnx` into the file `engine` with the rtx or tensorrt wheel, in a process of its own.

    `folder` is an empty folder for what the process needs; `profiles` hold the inputs with symbolic dimensions.
    QvggtError when the wheel is missing, the graph or the build is refused, or the process crashes.
    """
    table = folder / "layers.txt"
    request = {
        "module": MODULES[config.backend],
        "backend": config.backend,
        "onnx": os.path.abspath(onnx),
        "engine": os.path.abspath(engine),
        "table": str(table),
        "profiles": [profile for profile in profiles if profile],
        "capabilities": [enum_name(c) for c in config.compute_capabilities],
        **_asked(config.options, folder),
    }
    start = time.monotonic()
    with open(folder / "stderr.txt", "w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "qvggt.engines.build_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,  # `-m` looks for modules here first: a folder of ours, not the user's
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if os.path.isabs(p))},
            encoding="utf-8",
        )
        try:
            answer = _follow(process, request, onnx, shown)
            code = process.wait()
        finally:
            process.kill()  # harmless when it has ended
            process.wait()
        errors.seek(0)
        noise = errors.read()
    if answer["kind"] != "done":
        raise _refusal(onnx, config, answer, code, noise)
    counts = {name: answer.get(name) for name in ("layers", "peak_bytes", "weight_bytes", "activation_bytes")}
    _keep_timings(config.options, folder)
    text, seconds = table.read_text(encoding="utf-8"), time.monotonic() - start
    return Built(answer["version"], seconds, text, warnings=tuple(answer["warnings"]), **counts)


def _asked(options: BuilderOptions, folder: Path) -> dict[str, Any]:
    """The builder's options as the process reads them; timings go to the folder first, so that a file is whole."""
    cache = options.timing_cache
    return {
        "level": options.optimization_level,
        "workspace": options.workspace_bytes,
        "flags": [name.upper() for name in ("weight_streaming", "version_compatible") if getattr(options, name)],
        "timings": None if cache is None else [os.path.abspath(cache), str(folder / TIMINGS)],
    }


def _keep_timings(options: BuilderOptions, folder: Path) -> None:
    if options.timing_cache is not None and (folder / TIMINGS).is_file():
        with atomic_write(options.timing_cache) as temporary:
            shutil.copyfile(folder / TIMINGS, temporary)


def check_timing_cache(options: BuilderOptions) -> None:
    """QvggtError for a place of a timing cache that cannot be written after the build."""
    path = options.timing_cache
    if path is not None and path.exists() and not path.is_file():
        raise QvggtError(f"--timing-cache {path}: is a folder, expected a file to read and write")


def _follow(process: subprocess.Popen[str], request: Mapping[str, Any], onnx: Path, shown: bool) -> dict[str, Any]:
    """Send the request, show progress; returns the last answer, with kind "crash" and the last node if none came."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):  # it ended at once; its answer, or the lack of one, says why
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()  # and left open: its end tells the process that we are gone
    node, progress, start = "", None, 0.0
    try:
        for text in process.stdout:
            answer = json.loads(text)
            if answer["kind"] in ("done", "refused"):
                return dict(answer)
            if answer["kind"] == "node":
                node = answer["name"]
            elif answer["kind"] == "network":
                node, start = "", answer["cpu"]
                estimate = max(1.0, SECONDS * (answer["layers"] / LAYERS) ** POWER)
                progress = bar(total=round(estimate), desc=f"building {onnx.name}", unit="s", shown=shown)
            elif answer["kind"] == "tick" and progress is not None:
                seconds = answer["cpu"] - start
                if 1.1 * seconds > progress.total:  # past the estimate, a tenth of them is taken to be left
                    progress.total = round(1.1 * seconds) + 1
                progress.update(round(seconds) - progress.n)
        return {"kind": "crash", "node": node}
    finally:
        if progress is not None:
            progress.close()


def _refusal(onnx: Path, config: BuildConfig, answer: Mapping[str, Any], code: int, noise: str) -> QvggtError:
    name = NAMES[config.backend]
    if answer["kind"] == "crash":
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = next((text for text in reversed(noise.splitlines()) if text.strip()), "")
        where = f" at node {answer['node']}" if answer["node"] else f": {last[:200]}" if last else ""
        return QvggtError(
            f"{onnx}: the {name} process ended with {end}{where}; nothing was written"
            + ("; free some memory" if code == -getattr(signal, "SIGKILL", 9) else "; change the graph there")
        )
    reasons = answer["reasons"] or [{"text": "no reason given"}]
    first, stage = reasons[0], answer["stage"]
    if stage == "load":
        return QvggtError(f"--backend {config.backend} needs {name}, {first['text']}: {INSTALL[config.backend]}")
    if stage in ("version", "profile"):
        return QvggtError(first["text"])
    what = {"parse": "refuses the graph", "build": "cannot build it"}[stage]
    named = first.get("node") or first.get("operator")
    node = f"{first['operator'] or 'node'} {first['node'] or '(no name)'}: " if named else ""
    more = f" (and {len(reasons) - 1} more)" if stage == "parse" and len(reasons) > 1 else ""
    advice = ""
    if config.backend == "tensorrt" and any(sign in first["text"] for sign in NO_GPU):
        advice = "; it builds on the GPU that the engine is for: build there, or use --backend rtx here"
    return QvggtError(f"{onnx}: {name} {what}: {node}{words(first['text'])}{more}{advice}")


def words(text: str) -> str:
    """The builder's reason without the places in its own source: "Cannot compile for target(s) sm86, because ..."."""
    text = " ".join(text.split())
    if "Assertion failed: " in text:
        text = text[text.index("Assertion failed: ") :]
    text = re.sub(r"^I\w+::\w+: ", "", text)
    text = re.sub(r"^Error Code \d+: \w+ \((?:\[[^\]]*\] )?", "", text)
    text = re.sub(r"\.? \(?In \S+ at \S+\.\w+:\d+.*$", "", text)
    return text.strip()[:300]
