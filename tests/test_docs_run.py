"""README.md and docs/, executed: every command and Python block of a page, in order, in a folder of the page's own.

The tiny model and generated scenes stand in for what cannot be had here (`pages.NAMES`), counts are small
(`pages.SMALLER`), and `pages.NOT_RUN` says what is not run and why.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from calling import call
from pages import PAGES, PYTHON_NOT_RUN, blocks, reason, stand_ins

QUICK = ("api.md",)  # the one call of README.md is that of tests/jobs/test_deploy.py too
MADE = (  # what pages take for granted, by calls of docs/commands.md in small
    "qvggt scenes outputs/scenes --train 2 --test 4",
    "qvggt calibrate tiny --bits w4a4 --recipe rtn --data outputs/scenes --sequences 2 -o outputs/tiny-w4a4",
    "qvggt export outputs/tiny-w4a4 -o outputs/tiny-w4a4.onnx --no-check",
)
OWN = {"commands.md": ("outputs",), "tutorial.md": ("outputs",)}  # pages that make it themselves
PHOTOS = "outputs/scenes/synthetic/scene_020000000/images"


def run(line: str) -> None:
    assert call(*shlex.split(line)[1:]) == 0, line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes, a checkpoint, its file, photographs and a video."""
    folder, before = tmp_path_factory.mktemp("made"), Path.cwd()
    os.chdir(folder)
    try:
        for line in MADE:
            run(line)
    finally:
        os.chdir(before)
    shutil.copytree(folder / PHOTOS, folder / "photos")
    for name in ("outputs/vggt-w8a8.onnx", "model.onnx"):
        shutil.copy(folder / "outputs/tiny-w4a4.onnx", folder / name)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A page's folder, on one thread, with a copy of what it may find there."""
    shutil.copytree(made, tmp_path / "page")
    monkeypatch.chdir(tmp_path / "page")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "page"
    torch.set_num_threads(before)


def video(path: Path) -> None:
    """Twelve of the photographs' frames as a film."""
    import av
    import numpy as np
    from PIL import Image

    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 70
        stream.pix_fmt = "yuv420p"
        for photo in sorted(Path(PHOTOS).iterdir())[:6]:
            frame = av.VideoFrame.from_ndarray(np.asarray(Image.open(photo)), format="rgb24")
            film.mux(stream.encode(frame))
        film.mux(stream.encode())


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=p.name, marks=[] if p.name in QUICK else [pytest.mark.slow]) for p in PAGES if blocks(p)],
)
def test_the_page_as_it_stands(page: Path, here: Path) -> None:
    for name in OWN.get(page.name, ()):
        shutil.rmtree(here / name)
    if "walk.mp4" in page.read_text(encoding="utf-8"):
        video(here / "walk.mp4")
    scope: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python":
            if not any(key in block.text for key in PYTHON_NOT_RUN):
                exec(compile(block.text, page.name, "exec"), scope)
            continue
        for line in block.lines():
            if reason(line) is not None or ("qvggt build" in line and find_spec("tensorrt_rtx") is None):
                continue
            for small in stand_ins(line, page.name):
                run(small)


def test_stand_ins_and_reasons() -> None:
    assert stand_ins("qvggt eval --model vggt-1b --root /data/co3d --shard 1/4 --records part1.jsonl")[2] == (
        "qvggt eval --model tiny --root outputs/scenes --min-frames 8 --shard 3/4 --records part3.jsonl --frames 2"
    )
    assert reason("qvggt demo --model tiny")
    assert reason("qvggt eval --model tiny") is None
    assert reason("curl example.com") is None, "a line nobody listed is noticed by test_docs.py"
