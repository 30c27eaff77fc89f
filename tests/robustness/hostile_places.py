"""Places that take no file: a full disk, folders and files that may not be written; and inputs with NaN."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sandbox import Job, Judgement, Outcome, Work, command, fresh, judge, must, names, run_forked

SHARES = (0.0, 0.02, 0.3, 0.7, 0.95)  # of the bytes a run writes: where the disk is full
BLOCK = 4096
OVERRIDES = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER: what lets root write anywhere

Place = dict[str, str]  # job, place, verdict, why, said: a command in a hostile place, and how it ended


def full_disks(chosen: list[Job], folder: Path) -> Iterator[Place]:
    """Every job on a file system with too few bytes: a tmpfs where it may be mounted, else a limit on file size."""
    for job in chosen:
        reference = fresh(folder / "reference")
        outcome = job.run(reference)
        assert outcome.code == 0, outcome
        sizes = [path.stat().st_size for path in reference.rglob("*") if path.is_file()]
        total = sum(-(-size // BLOCK) * BLOCK for size in sizes)
        for share in SHARES:
            with tmpfs(fresh(folder / "full"), max(BLOCK, int(total * share))) as mounted:
                if mounted:
                    yield tried(job, folder / "full", f"tmpfs with room for {share:.0%}", harmless=share >= 0.9)
                else:
                    before = partial(limit_files, int(max(sizes) * share))
                    yield tried(job, folder / "full", f"files up to {share:.0%}", before=before)


def unwritable(chosen: list[Job], folder: Path) -> Iterator[Place]:
    """A read-only folder (root gives up its override first), a file where a folder should be, a folder for a file."""
    for job in chosen:
        closed = fresh(folder / "closed")
        closed.chmod(0o555)
        yield tried(job, closed, "folder without write permission", before=drop_override)
        (folder / "file").write_text("")
        yield tried(job, folder / "file", "a file where the folder should be")
        if job.name == "scenes":  # adds to a folder, which is what lets it resume
            continue
        mine = fresh(folder / "blocked") / job.result / "mine.txt"
        mine.parent.mkdir()
        mine.write_text("mine")
        expected = names(folder / "blocked")
        place = tried(job, folder / "blocked", "a full folder of that name", allowed=expected)
        yield place if mine.exists() else place | {"verdict": "fault", "why": "files were deleted"}


def tried(
    job: Job,
    out: Path,
    place: str,
    *,
    harmless: bool = False,
    before: Work | None = None,
    allowed: set[str] | None = None,
) -> Place:
    """harmless: the command may succeed. What lets a command resume may stay: finished scenes, finished records."""
    outcome = job.run(out, before=before)
    left = names(out) - (allowed or set())
    if job.name == "scenes":
        left = {name for name in left if Path(name).name.startswith(".")}
    if job.name == "eval":
        left = {name for name in left if not name.endswith(".jsonl")}
    return judged(job.name, place, outcome, left, "" if harmless else "it succeeded where nothing can be written")


def judged(job: str, place: str, outcome: Outcome, left: set[str], wrong: str) -> Place:
    """wrong: what it means that the command took it, empty where it may."""
    judgement = judge(outcome, left)
    if judgement.verdict == "harmless" and wrong:
        judgement = Judgement("fault", wrong)
    said = outcome.err[-400:]
    return {"job": job, "place": place, "verdict": judgement.verdict, "why": judgement.why, "said": said}


def limit_files(size: int) -> None:
    """No file may grow beyond `size` bytes: a write fails with EFBIG, as it would on a full disk with ENOSPC."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def drop_override() -> None:
    """For root: give up the right to write where the permissions say no. Other users have no such right."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    data = (ctypes.c_uint32 * 6)()
    failed = libc.capget(header, data)
    data[0], data[1] = data[0] & ~OVERRIDES, data[1] & ~OVERRIDES
    if failed or libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capget or capset")


@contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[bool]:
    """Mount a tmpfs of `size` bytes at `folder`; False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()) == 0
    try:
        yield mounted
    finally:
        if mounted and libc.umount2(os.fsencode(folder), 2):  # MNT_DETACH
            raise OSError(ctypes.get_errno(), f"cannot unmount {folder}")


def not_numbers(shop: Path, folder: Path) -> Iterator[Place]:
    """NaN and infinity where numbers should be: weights, images given from Python, float images, static ranges."""
    import qvggt

    taken = "taken as if they were numbers"
    fresh(folder / "nan")
    calls: dict[str, Callable[[Any, Any], object]] = {
        "static ranges": lambda m, x: qvggt.quantize(m, "w8a8", act="static", batches=[x]),
        "a runner": lambda m, x: qvggt.open_runner(shop / "onnx" / "m.onnx")(x.numpy()),
    }
    model = shop / "float" / "model.safetensors"
    for name, call in calls.items():
        outcome = run_forked(partial(on_nan_images, call, model))
        yield judged("", f"NaN in images of {name}", outcome, set(), taken)
    weights, tiff, out = folder / "nan" / "model.safetensors", folder / "nan" / "x.tiff", folder / "out"
    must(partial(poison, model, weights), "weights with NaN")
    must(partial(float_tiff, tiff), "an image with NaN")
    for name, place, line in (
        ("calibrate", "the weights of calibrate", (weights, "--recipe", "rtn", "-o", out / "c")),
        ("export", "the weights of export", (weights, "--no-check", "-o", out / "m.onnx")),
        ("reconstruct", "a float TIFF image", (tiff, "--model", model, "-o", out / "r")),
    ):
        yield judged("", f"NaN in {place}", run_forked(command(name, line)), set(), taken)


def on_nan_images(call: Callable[[Any, Any], object], path: Path) -> None:
    import torch

    import qvggt
    from qvggt.cli.terminal import fail

    model = qvggt.load(path)
    images = torch.rand(2, 3, model.size, model.size)
    images[1, 0, 5, 5] = float("nan")
    try:
        call(model, images)
    except qvggt.QvggtError as error:
        fail(str(error))


def poison(source: Path, target: Path) -> None:
    """A copy of a weights file with one NaN in it."""
    from qvggt.hub.loading import load_model
    from qvggt.models.loading import save_model

    model = load_model(source)
    model.get_parameter("aggregator.frame_blocks.1.mlp.fc1.weight").data[3, 3] = float("nan")
    save_model(model, target)


def float_tiff(path: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.full((60, 60), 0.5, np.float32)
    pixels[3, 3] = np.nan
    Image.fromarray(pixels, "F").save(path)
