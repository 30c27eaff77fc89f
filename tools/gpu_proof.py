"""What a GPU makes of VGGT-1B and of our files, within a time budget, on any machine with an NVIDIA GPU.

    make gpu-proof                                       # docs/results/gpu.json, at most 8 minutes
    python tools/gpu_proof.py --budget 20 --only engines
    python tools/gpu_proof.py --device cpu --small       # every section in small, to try the tool: no figures of a GPU

Sections, in the order of what they tell for their time: `calibration` of one frame and one global block of VGGT-1B (the
plan it is held against comes before the engines),
`int8` products in PyTorch against bf16, VGGT-1B in `pytorch` at 1 to 20 frames, calibrated `tiny` models against the
CPU, `engines`. Nothing is downloaded: VGGT-1B has seeded random weights, calibrated tiny models come from
`make gpu-bundle`, which also writes how to run this where there is no package index.

Figures are computed in a process of their own, one after the other, and written when they are there; what fails, does
not fit into the time left, or takes four times its estimate is "not run" with the reason.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from reporting import Columns, columns, start, write_json

from qvggt.cli.terminal import one_line
from qvggt.errors import QvggtError
from qvggt.lazy import Function, function

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "results" / "gpu.json"
SMALL = Path("outputs/gpu_proof.json")
BUNDLE = Path("outputs/gpu-bundle")
SECTIONS = ("calibration", "int8", "pytorch", "tiny", "engines")
FRAMES = (1, 2, 4, 10, 20)
FORMS = ("w8a8", "fp16", "w4a8", "w4a16")
BACKENDS = {"tensorrt_rtx": "rtx", "tensorrt": "tensorrt"}
START = "spawn"  # the process that computes: nothing of this one
LEAST, TIMES = 60.0, 4  # a figure is stopped after so many times its estimate, but not before LEAST seconds
RESERVE = 3.0  # of the budget, for stopping
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """device: "cuda", "cuda:N" or "cpu". small: a network of a few narrow blocks in place of VGGT-1B. checkpoints:
    folder of the calibrated tiny models. files: for ONNX files and engines. seconds: of timed calls, a figure."""

    device: str
    small: bool
    checkpoints: str
    files: str
    seconds: float = 3.0


@dataclass(frozen=True)
class Figure:
    """function(setting, **arguments) -> row. estimate: seconds on a recent data-centre GPU with 16 CPU cores."""

    section: str
    name: str
    function: Function
    arguments: dict[str, Any] = field(default_factory=dict)
    estimate: float = 1.0

    @property
    def names(self) -> Row:
        return {"section": self.section, "name": self.name}

    @property
    def limit(self) -> float:
        return max(LEAST, TIMES * self.estimate)


def figures(small: bool, backends: Sequence[str]) -> list[Figure]:
    """All of them, in the order they run."""
    frames = (1, 2) if small else FRAMES
    longest = 2 if small else 10
    here = "gpu_figures:"
    found = []
    for name, bf16 in (("", False), (", --bf16", True)):
        for group in ("frame", "global"):
            call = {"group": group, "frames": longest, "bf16": bf16}
            found.append(Figure("calibration", f"{group} block{name}", here + "calibration", call, 25))
    found += [Figure("int8", _counted(n), here + "int8_products", {"frames": n}, 8) for n in (1, longest)]
    for kind in ("bf16", "fp32", "fake quant"):
        for count in frames:
            call = {"kind": kind, "frames": count}
            made = 20 if count == 1 else 0  # the first one makes the network
            name = f"{kind}, {_counted(count)}"
            found.append(Figure("pytorch", name, here + "baseline", call, 4 + count / 2 + made))
    names = ("fp32", "bf16", "w8a8", "w4a8", "w4a4", "w4a16")
    found += [Figure("tiny", name, here + "tiny", {"name": name}, 8) for name in names]
    found.append(Figure("tiny", "calibrated there", here + "calibrated_here", {}, 40))
    found.append(Figure("calibration", "the plan", here + "planned", {"frames": longest}, 45))  # on the CPU
    large = "small network" if small else "VGGT-1B"
    for backend in backends:
        for model, known, estimate in (("tiny", "tiny", 25), ("random-1b", large, 150)):
            for bits in FORMS[: 1 if small else None]:
                call = {"model": model, "bits": bits, "backend": backend}
                name = f"{known} {bits} {backend}"
                found.append(Figure("engines", name, here + "engine", call, estimate))
    if not backends:
        found.append(Figure("engines", "all", here + "no_backend"))
    return found


def _counted(frames: int) -> str:
    return f"{frames} frame{'' if frames == 1 else 's'}"


class Worker:
    """The process that computes; started anew when a figure took too long, killed it or broke its GPU context."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.process: Any = None
        self.pipe: Any = None

    def ask(self, figure: Figure, setting: Setting, seconds: float) -> Row:
        """The figure's row, or {"not_run": reason}."""
        if self.process is None:
            self.pipe, theirs = self.context.Pipe()
            self.process = self.context.Process(target=serve, args=(theirs,), daemon=False)
            self.process.start()
            theirs.close()
        try:
            self.pipe.send((figure.section, figure.function, setting, figure.arguments))
            if not self.pipe.poll(seconds):
                self.close(0)
                return {"not_run": f"took longer than {seconds:.0f} s and was stopped"}
            row, broken = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            self.close(0)
            end = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"code {code}"
            return {"not_run": f"its process ended with {end}; out of memory?"}
        if broken:
            self.close(0)
        return dict(row)

    def close(self, patience: float = 2.0) -> None:
        """Let the process end by itself for so many seconds, then kill it."""
        if self.process is not None:
            with suppress(OSError):
                self.pipe.send(None)
            self.process.join(patience)
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = self.pipe = None


def serve(pipe: Any) -> None:
    """Figures until there is None; answers (row, whether this process is of no more use)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops us
    section = None
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        if request is None:
            return
        asked, target, setting, arguments = request
        if section not in (None, asked):
            function("gpu_figures:release")()
        section = asked
        try:
            row = function(target)(setting, **arguments)
            reason = str(row.get("run", ""))
        except Exception as error:
            reason = reason_of(error)
            row = {"not_run": reason}
            error.__traceback__ = None  # it holds the tensors of the failed call
            if "memory" in reason:
                function("gpu_figures:empty")()
        pipe.send((row, "CUDA error" in reason))


def reason_of(error: Exception) -> str:
    """In one line: what a user did wrong or lacks as it is, anything else with its type."""
    text = one_line(str(error))[:300]
    if isinstance(error, QvggtError):
        return text
    if "out of memory" in text.lower():
        return f"out of memory ({text[:120]})"
    return f"{type(error).__name__}: {text}"


def prove(
    todo: Sequence[Figure],
    setting: Setting,
    report: Row,
    seconds: float,
    save: Callable[[Row], None],
    worker: Worker,
) -> None:
    """Fill report["rows"], saving after every figure; never more than `seconds` from now."""
    began = time.monotonic()

    def left() -> float:
        return seconds - (time.monotonic() - began) - RESERVE

    known = {(row["section"], row["name"]): row for row in report["rows"] if complete(row)}
    report["rows"] = [
        known.get((one.section, one.name), {**one.names, "not_run": "the run ended before it"}) for one in todo
    ]
    for index, one in enumerate(todo):
        if complete(report["rows"][index]):
            continue
        started = time.monotonic()
        if one.estimate > left():
            row = {"not_run": f"takes about {one.estimate:.0f} s, {max(0.0, left()):.0f} s of the budget were left"}
        else:
            row = worker.ask(one, setting, min(one.limit, left()))
        report["rows"][index] = {**one.names, **row, "wall_s": round(time.monotonic() - started, 1)}
        report["seconds"] = round(time.monotonic() - began, 1)
        save(report)
        said = row.get("said") or f"not run: {row.get('not_run')}"
        print(f"[{report['seconds']:5.0f} s] {one.section} {one.name}: {said}", flush=True)


def complete(row: Row) -> bool:
    """Whether everything of a figure was run; "run": why a part of it was not."""
    return "not_run" not in row and "run" not in row


def commit() -> str | None:
    """Of the code: what git says, or the bundle where there is none."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    told = BUNDLE / "bundle.json"
    if done.returncode and told.exists():
        return str(json.loads(told.read_text(encoding="utf-8")).get("commit"))
    return done.stdout.strip() or None


# as a table

TABLE: Columns = {
    "section": "section",
    "figure": "name",
    "p50 ms": "p50_s/0.001 {:.2f} or -",
    "p99 ms": "p99_s/0.001 {:.2f} or -",
    "peak GB": "peak_bytes/1e9 {:.2f} or -",
    "": lambda row: row.get("said") or f"not run: {row['not_run']}",
}
NOT_RUN = "*Not run*: no machine with a GPU could be had yet. `make gpu-proof` writes `docs/results/gpu.json`, and\n"
NOT_RUN += "`python tools/results_tables.py` this table.\n"


def table(report: Row | None) -> str:
    """Markdown; None: nothing was run yet."""
    if report is None:
        return NOT_RUN
    found = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    card = f"{found['card']} ({found['memory_bytes'] / 1e9:.0f} GB, compute capability {found['capability']}), driver "
    told = (
        f"{card}{found['driver']}, CUDA {found['cuda']}, Python {found['python']}, {versions}; {report['created']}.\n\n"
    )
    return told + columns(report["rows"], TABLE)


def main(
    budget: Annotated[float, typer.Option(min=0.1, help="Minutes it may take, from now to the end.")] = 8.0,
    device: Annotated[str, typer.Option(help="cuda or cuda:N; cpu with --small.")] = "cuda",
    small: Annotated[bool, typer.Option(help="A few narrow blocks in place of VGGT-1B: no figures to show.")] = False,
    only: Annotated[str, typer.Option(help=f"Of {','.join(SECTIONS)}. [all]")] = ",".join(SECTIONS),
    keep: Annotated[bool, typer.Option(help="Keep the figures of the output file, run those it lacks.")] = False,
    checkpoints: Annotated[Path, typer.Option(help="Folder of the calibrated tiny models.")] = BUNDLE / "checkpoints",
    seconds: Annotated[float, typer.Option(min=0, help="Of timed calls, a figure.")] = 3.0,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="JSON to write. [docs/results/gpu.json, small outputs/gpu_proof.json]"),
    ] = None,
) -> None:
    """Run what fits into the budget, print each figure, and write them."""
    began = time.monotonic()
    real = not small and device != "cpu"
    path = output or (RESULT if real else SMALL)
    asked = only.split(",")
    if unknown := [name for name in asked if name not in SECTIONS]:
        raise QvggtError(f"--only {unknown[0]}: expected some of {', '.join(SECTIONS)}")
    if device == "cpu" and not small:
        raise QvggtError("--device cpu: needs --small; VGGT-1B takes hours there")
    if not real and path.resolve() == RESULT:
        raise QvggtError(f"-o {output}: holds figures of GPUs alone; give another file for a run in small")

    backends = [backend for module, backend in BACKENDS.items() if find_spec(module) is not None]
    worker = Worker(multiprocessing.get_context(START))
    with tempfile.TemporaryDirectory(prefix="qvggt-gpu-proof-") as files, closing(worker):
        setting = Setting(device, small, str(checkpoints), files, seconds)
        found = worker.ask(Figure("", "", "gpu_figures:machine"), setting, min(120.0, 60 * budget))
        if "not_run" in found:
            raise QvggtError(f"{found['not_run']}; needs one (--device cpu --small tries every section in small)")
        old = json.loads(path.read_text(encoding="utf-8")) if keep and path.exists() else {}
        if old and old["machine"] != found:
            raise QvggtError(f"--keep: {path} is of another machine or other versions; leave --keep out")
        created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        report: Row = {"created": created, "machine": found, "commit": commit(), "budget_s": 60 * budget}
        if not real:
            report["dry_run"] = f"on {device}, with a small network: no figures of VGGT-1B on a GPU"
        report |= {"seconds": 0.0, "rows": old.get("rows", [])}
        kept = {(row["section"], row["name"]) for row in report["rows"] if complete(row)}
        known = figures(small, backends)
        todo = [one for one in known if one.section in asked or (one.section, one.name) in kept]
        save = partial(write_json, path, told=False)
        prove(todo, setting, report, 60 * budget - (time.monotonic() - began), save, worker)
    run = sum(map(complete, report["rows"]))
    print(f"{run} of {len(report['rows'])} figures in {time.monotonic() - began:.0f} of {60 * budget:.0f} s: {path}")
    if not real:
        print(f"a dry run {report['dry_run']}")
        return
    print(f"\n{table(report)}")
    if path == RESULT:
        import results_tables  # which makes its own of this module

        results_tables.main(check=False)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    start(main)
