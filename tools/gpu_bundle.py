"""What `make gpu-proof` needs on a machine that has PyTorch, and no package index: one folder to carry there.

    python tools/gpu_bundle.py            # outputs/gpu-bundle: wheels/, checkpoints/, bundle.json, README.txt

wheels/: this package, and the pure-Python ones that it imports beyond torch, numpy, onnx, onnxruntime, typer, pytest,
safetensors, scipy, scikit-learn, matplotlib and what those bring. checkpoints/: the tiny model calibrated in four
formats with the default recipe, about a minute each on a CPU; those that are there stay.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from gpu_proof import BUNDLE, ROOT, commit
from reporting import start, write_json

from qvggt.errors import QvggtError
from qvggt.files import file_sha256
from qvggt.jobs.calibrate import CalibrateJob
from qvggt.jobs.scenes import ScenesJob
from qvggt.progress import Console

FORMATS = ("w8a8", "w4a8", "w4a4", "w4a16")
MISSING = ("tqdm",)  # of pyproject.toml's dependencies; the others come with those above, or nothing here imports them
LARGEST = 64 << 20  # of the bundle and the clone's own files but the beds, for machines that take so much
BEDS = "tools/beds"  # weights that no figure of a GPU needs
PACKAGE = ("qvggt", "export", "engines", "calib", "eval", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
README = """\
To run `make gpu-proof` of qvggt where there is an NVIDIA GPU, PyTorch, and no package index. Carry the clone there with
this folder in it ({folder}, which git ignores) and without the weights in {beds}, which no figure needs (move them
out of the clone for as long as that takes), and run in the clone:

  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site \\
      {folder}/wheels/*.whl
  PYTHONPATH=/tmp/site python3 tools/gpu_proof.py --budget 8

It prints a line a figure and writes docs/results/gpu.json after each; -o names another file, --keep goes on with the
figures it lacks, --only calibration,int8,pytorch,tiny,engines chooses sections. Bring the file back and run
`python tools/results_tables.py`. The tests: PYTHONSAFEPATH=1 PYTHONPATH=/tmp/site python3 -m pytest -m gpu tests/gpu
(QVGGT_GPU_MODEL={folder}/checkpoints/tiny-w4a8 for a calibrated model).
"""


def wheels(folder: Path) -> None:
    """This package, built from a copy, as a build leaves its own folders behind; then what is missing, for Python
    3.12."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory(prefix="qvggt-wheel-") as temporary:
        for name in PACKAGE:
            source, copy = ROOT / name, Path(temporary) / name
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy)
        _run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), temporary])
    only = ["--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
    _run([*pip, "download", *only, "--dest", str(folder), *MISSING])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise QvggtError(f"{' '.join(command[2:6])} ...: {last}")


def checkpoints(folder: Path, formats: Sequence[str], scenes: int, console: Console) -> None:
    """The tiny model in these formats, as qvggt calibrate makes it of generated scenes."""
    todo = [bits for bits in formats if not (folder / f"tiny-{bits}").exists()]
    if not todo:
        return
    data = folder.parent / "scenes"
    ScenesJob(data, train=scenes, test=0, frames=4).run(console)
    for bits in todo:
        place = folder / f"tiny-{bits}"
        CalibrateJob("tiny", place, format=bits, data=data, sequences=scenes).run(console)
        print(place, flush=True)
    shutil.rmtree(data)


def _clone_bytes() -> int:
    """Of the files that git knows here, without the beds."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = [ROOT / name for name in done.stdout.split("\0") if name and not name.startswith(BEDS)]
    return sum(file.stat().st_size for file in files if file.is_file())


def main(
    folder: Annotated[Path, typer.Argument(help="Where the bundle goes.")] = BUNDLE,
    formats: Annotated[str, typer.Option(help="Of the calibrated models.")] = ",".join(FORMATS),
    scenes: Annotated[int, typer.Option(min=1, help="Generated, that each model is calibrated on.")] = 32,
) -> None:
    """Write the bundle."""
    shutil.rmtree(folder / "wheels", ignore_errors=True)  # one version of each
    for name in ("wheels", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    wheels(folder / "wheels")
    checkpoints(folder / "checkpoints", formats.split(","), scenes, Console())
    text = README.format(folder=folder, beds=BEDS)
    (folder / "README.txt").write_text(text, encoding="utf-8")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "bundle.json"]
    facts = {str(path.relative_to(folder)): file_sha256(path) for path in files}
    size = sum(path.stat().st_size for path in files)
    whole = size + _clone_bytes()
    if whole > LARGEST:
        raise QvggtError(
            f"{folder}: {whole / 1e6:.1f} MB with the clone, expected at most {LARGEST / 1e6:.1f}; delete one of "
            f"{folder}/checkpoints and name the others with --formats"
        )
    write_json(folder / "bundle.json", {"commit": commit(), "bytes": size, "files": facts}, told=False)
    print(f"{folder}: {len(files)} files, {size / 1e6:.1f} MB, {whole / 1e6:.1f} with the clone")
    print(f"{folder}/README.txt says how to run it:\n\n{text}")


if __name__ == "__main__":
    start(main)
