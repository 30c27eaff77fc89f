"""Places that take no file: a full disk, folders and files that may not be written; and inputs with NaN."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robustness.judging import Judgement, judge, names
from robustness.kills import Job, fresh
from robustness.sandbox import Outcome, Work, command, drop_override, limit_files, run_forked
from robustness.workshop import Workshop

SHARES = (0.0, 0.02, 0.3, 0.7, 0.95)  # of the bytes a run writes: where the disk is full
BLOCK = 4096


@dataclass(frozen=True)
class Place:
    """One command in one hostile place, and how it ended."""

    job: str
    place: str
    verdict: str
    why: str
    said: str


def full_disks(jobs: list[Job], folder: Path) -> Iterator[Place]:
    """Every job on a file system with too few bytes: a tmpfs where it may be mounted, else a limit on file size."""
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        reference = fresh(folder / "reference")
        outcome = run_forked(job.work(reference))
        assert outcome.code == 0, outcome
        files = [path for path in reference.rglob("*") if path.is_file()]
        total = sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in files)
        largest = max(path.stat().st_size for path in files)
        for share in SHARES:
            with tmpfs(folder / "full", max(BLOCK, int(total * share))) as mounted:
                if mounted:
                    yield tried(job, folder / "full", f"tmpfs with room for {share:.0%}", refusal=share < 0.9)
                else:
                    before = limit_files(int(largest * share))
                    yield tried(job, fresh(folder / "full"), f"files up to {share:.0%}", refusal=True, before=before)


def unwritable(jobs: list[Job], folder: Path) -> Iterator[Place]:
    """A read-only folder (root gives up its override first), a file where a folder should be, a folder for a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        closed = fresh(folder / "closed")
        closed.chmod(0o555)
        try:
            yield tried(job, closed, "folder without write permission", refusal=True, before=drop_override)
        finally:
            closed.chmod(0o755)
        (folder / "file").write_text("")
        yield tried(job, folder / "file", "a file where the folder should be", refusal=True)
        if job.name == "scenes":  # adds to a folder, which is what lets it resume
            continue
        blocked = fresh(folder / "blocked")
        for name in job.results:
            (blocked / name).mkdir()
            (blocked / name / "mine.txt").write_text("mine")
        expected = names(blocked)
        place = tried(job, blocked, "a full folder of that name", refusal=True, allowed=expected)
        yield place if names(blocked) >= expected else Place(job.name, place.place, "fault", "files were deleted", "")


def tried(
    job: Job, out: Path, place: str, *, refusal: bool, before: Work | None = None, allowed: set[str] | None = None
) -> Place:
    outcome = run_forked(job.work(out), before=before)
    left = names(out) - (allowed or set()) if out.is_dir() else set()
    if job.name == "scenes":
        left = {
            name for name in left if Path(name).name.startswith(".")
        }  # finished scenes stay: a resumed run keeps them
    if job.name == "eval":
        left = {name for name in left if not name.endswith(".jsonl")}  # finished records stay
    judgement = judge(outcome, left)
    if refusal and judgement.verdict == "harmless":
        judgement = Judgement("fault", "it succeeded where nothing can be written")
    return Place(job.name, place, judgement.verdict, judgement.why, outcome.err[-400:])


def not_numbers(shop: Workshop, folder: Path) -> Iterator[Place]:
    """NaN and infinity where numbers should be: weights, images given from Python, float images, static ranges."""
    from qvggt.errors import QvggtError

    def from_python(call: Callable[[Any, Any], object]) -> Work:
        def work() -> None:
            import torch

            import qvggt
            from qvggt.cli.common import fail

            model = qvggt.load(shop / "float" / "model.safetensors")
            images = torch.rand(2, 3, model.size, model.size)
            images[1, 0, 5, 5] = float("nan")
            try:
                call(model, images)
            except QvggtError as error:
                fail(str(error))

        return work

    import qvggt

    cases = {
        "images of a static calibration": lambda m, x: qvggt.quantize(
            m, "w8a8", act="static", data=[x], progress=False
        ),
        "images of a learned calibration": lambda m, x: qvggt.quantize(
            m, "w4a4", recipe=quick_recipe(), data=[x], progress=False
        ),
        "images of a runner": lambda m, x: qvggt.open_runner(shop / "onnx" / "m.onnx")(x.numpy()),
        "images of a parity check": lambda m, x: qvggt.export(
            m, fresh(folder / "nan") / "m.onnx", check=x, progress=False
        ),
    }
    for name, call in cases.items():
        outcome = run_forked(from_python(call))
        yield refused(outcome, f"NaN in {name}")
    weights = fresh(folder / "weights") / "model.safetensors"
    made = run_forked(lambda: poison(shop / "float" / "model.safetensors", weights))
    assert made.code == 0, made
    out = fresh(folder / "out")
    for job, args in (
        ("calibrate", ["--recipe", "rtn", "-o", out / "c"]),
        ("export", ["--no-check", "-o", out / "m.onnx"]),
    ):
        yield refused(run_forked(command(job, [weights, *args])), f"NaN in the weights of {job}")
    tiff = fresh(folder / "tiff")
    made = run_forked(lambda: float_tiff(tiff / "x.tiff"))
    assert made.code == 0, made
    args = [tiff / "x.tiff", "--model", shop / "float" / "model.safetensors", "-o", out / "r"]
    yield refused(run_forked(command("reconstruct", args)), "NaN in a float TIFF image")


def refused(outcome: Outcome, what: str) -> Place:
    judgement = judge(outcome, set())
    if judgement.verdict == "harmless":
        judgement = Judgement("fault", "taken as if they were numbers")
    return Place("", what, judgement.verdict, judgement.why, outcome.err[-400:])


def quick_recipe() -> Any:
    from qvggt.calib.recipe import RECIPES

    return RECIPES["qvggt"].replace(epochs=1)


def poison(source: Path, target: Path) -> None:
    """A copy of a weights file with one NaN in it."""
    from qvggt.hub.loading import load_model
    from qvggt.models.loading import save_model

    model = load_model(source)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["aggregator.frame_blocks.1.mlp.fc1.weight"][3, 3] = float("nan")
    model.load_state_dict(state, assign=True)
    save_model(model, target)


def float_tiff(path: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.full((60, 60), 0.5, np.float32)
    pixels[3, 3] = np.nan
    Image.fromarray(pixels, "F").save(path)


@contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[bool]:
    """Mount a tmpfs of `size` bytes at `folder`; False where that is not allowed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size}".encode()
    mounted = libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options) == 0
    try:
        yield mounted
    finally:
        if mounted and libc.umount2(os.fsencode(folder), 2):  # MNT_DETACH
            raise OSError(ctypes.get_errno(), f"cannot unmount {folder}")


def summary(places: list[Place]) -> dict[str, Any]:
    return {
        "cases": len(places),
        "refused": sum(p.verdict == "refused" for p in places),
        "harmless": sum(p.verdict == "harmless" for p in places),
        "faults": [asdict(p) for p in places if p.verdict == "fault"],
        "places": sorted({p.place for p in places}),
    }
