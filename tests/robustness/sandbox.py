"""Work in a forked process, what is a right ending of it, and small valid inputs for every command.

Forking a process that has imported everything costs milliseconds where a fresh interpreter costs seconds, and the
kernel treats both alike: SIGKILL, limits and crashes of native code are real ones. The parent must stay
single-threaded, so it runs no network itself.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, Literal

MEMORY = 24 << 30  # bytes of address space: a malformed size must not take the machine down
TIMEOUT = 400.0  # seconds
BUILD_TIMEOUT = 900.0
LONGEST = 1000  # characters of an error
RESUMABLE = ".unfinished"  # folders in which a calibration goes on: meant to stay
SIZE = 56  # pixels
QUICK = ("--sequences", 2, "--frames", 2, "--epochs", 1)

Work = Callable[[], object]
Verdict = Literal["refused", "harmless", "check failed", "fault"]


@dataclass(frozen=True)
class Outcome:
    """How a process ended. code: its exit code, or minus the signal that ended it. timed_out: we ended it."""

    code: int
    out: str
    err: str
    seconds: float
    timed_out: bool = False


def import_everything() -> None:
    """Load what the commands import: once, here, and so that a change of the sources meanwhile changes no result."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import PIL.Image  # noqa: F401
    import scipy.spatial  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import torch

    for room in ("qvggt", "qvggt.export", "qvggt.engines", "qvggt.calib", "qvggt.eval"):
        for module in walk_packages(import_module(room).__path__, f"{room}."):
            import_module(module.name)
    torch.set_num_threads(1)


def command(name: str, args: Sequence[object]) -> Work:
    """The work of running the command line `qvggt <name> args`; can be pickled."""
    return partial(run_command, name, [str(arg) for arg in args])


def run_command(name: str, args: Sequence[str]) -> None:
    from qvggt.cli.main import main

    main([name, *args])


def run_forked(
    work: Work, *, kill_after: float | None = None, before: Work | None = None, timeout: float = TIMEOUT
) -> Outcome:
    """Run `work` in a child; SIGKILL it and its children after `kill_after` seconds. `before`: set up in the child."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os._exit(in_child(work, before, out.fileno(), err.fileno()))
        status, late = wait(pid, start + (timeout if kill_after is None else kill_after))
        seconds = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        said, complained = (stream.read().decode(errors="replace") for stream in (out, err))
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, said, complained, seconds, timed_out=late and kill_after is None)


def in_child(work: Work, before: Work | None, out: int, err: int) -> int:
    """The exit code of `work`, which writes to the files `out` and `err`."""
    code = 0
    try:
        os.setpgid(0, 0)  # what it starts ends with it
        for target, file in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
            os.dup2(file, target)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        faulthandler.disable()  # pytest's would write a page about every crash
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if before is not None:
            before()
        work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def wait(pid: int, deadline: float) -> tuple[int, bool]:
    """The wait status, and whether the deadline ended the process."""
    late = False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done and not late and time.monotonic() >= deadline:
            late = True
            os.kill(pid, signal.SIGKILL)
        if done or late:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        if done:
            return status, late
        time.sleep(0.002)


@dataclass(frozen=True)
class Judgement:
    """verdict, and for a fault what is wrong with the ending."""

    verdict: Verdict
    why: str = ""


def judge(outcome: Outcome, left: set[str], *, check: bool = False) -> Judgement:
    """One line and exit code 2, or success; never a traceback, never half a file.

    left: names in the output folder afterwards. check: exit code 1 is a verdict of this command, not a fault.
    """
    code, err = outcome.code, outcome.err
    shown = [line.split("\r")[-1].rstrip() for line in err.split("\n")]  # a progress bar is wiped
    lines = [line for line in shown if line]
    errors = [line for line in lines if line.startswith("error: ")]
    if outcome.timed_out:
        return Judgement("fault", f"no end after {outcome.seconds:.0f} s")
    if code < 0:
        return Judgement("fault", f"crash: {signal.Signals(-code).name}")
    if "Traceback (most recent call last)" in err:
        return Judgement("fault", f"traceback: {lines[-1][:200]}")
    if code == 0:
        return Judgement("harmless")
    if code == 1 and check:
        return Judgement("check failed")
    if code != 2:
        return Judgement("fault", f"exit code {code}: {err[:200]}")
    if len(errors) != 1 or not all(line.startswith(("error: ", "note: ")) for line in lines):
        return Judgement("fault", f"{len(lines)} lines on stderr: {err[:300]!r}")
    if len(errors[0]) > LONGEST:
        return Judgement("fault", f"a line of {len(errors[0])} characters: {errors[0][:200]}")
    if wrong := sorted(name for name in left if RESUMABLE not in name):
        return Judgement("fault", f"left behind: {', '.join(wrong[:4])}")
    return Judgement("refused")


def names(folder: Path) -> set[str]:
    """Relative paths of everything in a folder, hidden things too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")} if folder.is_dir() else set()


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def make_workshop(root: Path, *, engine: bool = True) -> Path:
    """float/ (model.safetensors, config.json), scenes/, calibrated/, onnx/m.onnx, and engine/ where one can be built.

    RuntimeError with the command's own words when a valid input is refused.
    """
    float_model = root / "float" / "model.safetensors"
    for name in ("float", "onnx"):
        (root / name).mkdir(parents=True)
    must(partial(make_model, float_model), "a model")
    must(partial(make_scenes, root / "scenes"), "scenes")
    must(command("calibrate", [float_model, "--bits", "w4a4", "--recipe", "rtn", "-o", root / "calibrated"]), "w4a4")
    must(command("export", [root / "calibrated", "--no-check", "-o", root / "onnx" / "m.onnx"]), "an ONNX file")
    if engine:
        (root / "engine").mkdir()
        source = root / "engine" / "m.onnx"
        must(command("export", [float_model, "--bits", "fp32", "--no-check", "-o", source]), "a float ONNX file")
        build = command("build", [source, "-o", root / "engine" / "m.engine", "--frames", "2"])
        made = run_forked(build, timeout=BUILD_TIMEOUT)
        if made.code != 0:
            print(f"no engine, so nothing about engines is measured: {made.err.strip()[-300:]}", file=sys.stderr)
            shutil.rmtree(root / "engine")
    return root


def must(work: Work, what: str) -> None:
    """Run work in a process of its own; RuntimeError if it does not end well."""
    outcome = run_forked(work)
    if outcome.code != 0:
        raise RuntimeError(f"cannot make {what}: {outcome}")


def make_model(path: Path) -> None:
    import torch

    from qvggt.models.loading import save_model
    from qvggt.models.vggt.config import VGGTConfig
    from qvggt.models.vggt.network import VGGT

    config = VGGTConfig(
        img_size=SIZE, embed_dim=32, vit_depth=1, aa_depth=4, num_heads=2, layer_scale=1.0, camera_trunk_depth=1,
        camera_num_heads=2, camera_iters=2, dpt_features=8, dpt_out_channels=(8, 8, 8, 8), dpt_layers=(0, 1, 2, 3),
        dpt_head_channels=8, heads=("camera", "point", "depth"),
    )  # fmt: skip
    torch.manual_seed(0)
    save_model(VGGT(config).requires_grad_(False).eval(), path)
    (path.parent / "config.json").write_text(json.dumps({"qvggt_config": json.loads(config.to_json())}))


def make_scenes(folder: Path) -> None:
    from qvggt.data.co3d_writer import write_co3d
    from qvggt.data.synthetic.scene import SceneConfig

    config = SceneConfig(height=SIZE, width=SIZE, frames=3)
    write_co3d(folder, config, range(2), range(50, 52), progress=False)


@dataclass(frozen=True)
class Job:
    """A command line that writes `result`; "{out}" in it is the output folder."""

    name: str
    result: str
    line: tuple[object, ...]

    def run(self, out: Path, **how: Any) -> Outcome:
        work = command(self.name, [str(word).replace("{out}", str(out)) for word in self.line])
        return run_forked(work, **how)


def jobs(shop: Path) -> dict[str, Job]:
    """The commands, on the workshop's inputs. build: only where the workshop could build an engine."""
    model, scenes = shop / "float" / "model.safetensors", shop / "scenes"
    data = ("--root", scenes, "--frames", 2, "--min-frames", 2, "--warmup", 0)
    kept = ("--records", "{out}/r.jsonl", "--json", "{out}/r.json", "--overwrite")
    found = [
        Job("calibrate", "c", (model, "--bits", "w4a4", "--data", scenes, *QUICK, "-o", "{out}/c")),
        Job("export", "m.onnx", (shop / "calibrated", "--no-check", "-o", "{out}/m.onnx", "--overwrite")),
        Job("eval", "r.json", ("--model", model, "--engine", shop / "onnx" / "m.onnx", *data, *kept)),
        Job("scenes", "s", ("{out}/s", "--train", 1, "--test", 1, "--frames", 2, "--size", SIZE)),
        Job("build", "m.engine", (shop / "engine" / "m.onnx", "-o", "{out}/m.engine", "--frames", "2", "--overwrite")),
    ]
    return {job.name: job for job in found if job.name != "build" or (shop / "engine").is_dir()}
