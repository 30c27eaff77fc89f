"""The main job in one command: scenes -> w8a8 and w4a4 checkpoints -> verified ONNX -> table, picture, JSON.

    python tools/demo.py            # what `make demo` runs
    python tools/demo.py --model outputs/tiny/model.safetensors --out outputs/my-demo

Each step is a command you could type yourself, and is shown before it runs. A second run reuses every step whose
command, inputs, code and library versions are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from reporting import start
from steps import Step, StepFailed, digest, run_step

from qvggt.errors import QvggtError

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("qvggt", "export", "engines", "calib", "eval", "tools")
BITS = ("w8a8", "w4a4")
Line = list[str | Path | int]
SCENE_FRAMES, FRAMES = 8, 4
TABLE = "evaluate"


def demo(
    model: Annotated[
        str, typer.Option(help="tiny, a .safetensors/.pt file, a folder with one, or a Hub id: float weights.")
    ] = "tiny",
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("outputs/demo"),
    train: Annotated[int, typer.Option(min=1, help="Training scenes (for calibration).")] = 64,
    test: Annotated[int, typer.Option(min=3, help="Test scenes (for the gate, the table and the picture).")] = 48,
) -> None:
    """Run every step that is not done yet, then show where the results are."""
    began = time.monotonic()
    steps = plan(model, out, train, test)
    context = code_and_versions()
    reused = 0
    for number, step in enumerate(steps, start=1):
        print(f"[{number}/{len(steps)}] {step.name}: {shown(step.command)}", flush=True)
        try:
            stamp, unchanged = run_step(step, out / "steps", context)
        except StepFailed as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(error.code) from error
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            raise
        reused += unchanged
        if unchanged:
            print("    unchanged, reused" + (":" if step.name == TABLE else ""))
            if step.name == TABLE:
                print("".join(f"    {line}\n" for line in stamp.printed.splitlines()), end="")
        else:
            print(f"    {stamp.seconds:.0f} s")
    print(f"{len(steps) - reused} steps run, {reused} reused, {time.monotonic() - began:.0f} s")
    print(f"results: {out / 'results.json'}, {out / 'depth.png'}, {out}/*.onnx")


def plan(model: str, out: Path, train: int, test: int) -> list[Step]:
    """The demo as steps, in order. QvggtError when the model cannot be found."""
    from qvggt.hub.names import find_weights

    weights = find_weights(model)
    size = image_size(weights)
    name = model if model == "tiny" else Path(model).stem
    scenes, results, picture = out / "scenes", out / "results.json", out / "depth.png"
    folders = [out / f"{name}-{bits}" for bits in BITS]  # calibrated checkpoints
    nearest = out / f"{name}-{BITS[-1]}-rtn"  # the baseline: round to nearest, nothing learned
    files = [out / f"{name}-{bits}.onnx" for bits in BITS]
    data: Line = ["--root", scenes, "--frames", FRAMES]

    counts: Line = ["--train", train, "--test", test, "--frames", SCENE_FRAMES, "--size", f"{size}x{size}"]
    steps = [step("scenes", ["qvggt-scenes", scenes, *counts], [], scenes)]
    for bits, folder in zip(BITS, folders, strict=True):
        line: Line = ["qvggt-calibrate", model, "--bits", bits, "--data", scenes, "-o", folder, "--force"]
        steps.append(step(f"calibrate {bits}", line, [weights, scenes], folder))
    line = ["qvggt-calibrate", model, "--bits", BITS[-1], "--recipe", "rtn", "-o", nearest, "--force"]
    steps.append(step(f"calibrate {BITS[-1]} rtn", line, [weights], nearest))
    for bits, folder, file in zip(BITS, folders, files, strict=True):
        line = ["qvggt-export", folder, "--data", scenes, "-o", file]
        steps.append(step(f"export {bits}", line, [folder, scenes], file))
    models: Line = [model, *folders, nearest]
    candidates: Line = []
    for each in models:
        candidates += ["--model", each]
    for file in files:
        candidates += ["--engine", file]
    protocol: Line = ["--dataset", "co3d", *data, "--min-frames", SCENE_FRAMES, "--json", results]
    steps.append(
        step(TABLE, ["qvggt-eval", *candidates, *protocol], [weights, scenes, *folders, nearest, *files], results)
    )
    script = Path(os.path.relpath(ROOT / "tools" / "depth_sheet.py"))
    line = [sys.executable, script, "--model", model, "--engine", files[-1], *data, "-o", picture]
    steps.append(step("picture", line, [weights, scenes, files[-1]], picture))
    return steps


def step(name: str, line: Sequence[str | Path | int], inputs: Sequence[Path], output: Path) -> Step:
    """A step whose command starts with a console script of this environment, or with the interpreter itself."""
    head = str(line[0]) if line[0] == sys.executable else console_script(str(line[0]))
    return Step(name, (head, *map(str, line[1:])), tuple(inputs), (output,))


def image_size(weights: Path) -> int:
    """Native side of the images in pixels."""
    from qvggt.models.loading import stored_config
    from qvggt.models.vggt.config import VGGT_1B
    from qvggt.tensor_file import open_tensors

    return (stored_config(open_tensors(weights)) or VGGT_1B).img_size


def console_script(name: str) -> str:
    """A console script of this environment; QvggtError when the package is not installed in it."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        raise QvggtError(f"{path}: missing; install the package into this environment, or run make demo")
    return str(path)


def shown(line: tuple[str, ...]) -> str:
    """The command as one would type it in the activated environment."""
    head = "python" if line[0] == sys.executable else Path(line[0]).name
    return shlex.join((head, *line[1:]))


def code_and_versions() -> str:
    """Hash of what every step depends on besides its own inputs."""
    from qvggt.versions import versions

    code = {
        path.relative_to(ROOT).as_posix(): digest(path)
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    }
    facts = {"code": code, "python": platform.python_version(), **versions()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    start(demo)
