"""The examples of docs/examples: they compile, run and say what qvggt says, and every call in them is one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calling import call

from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.geometry import decode_pose

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples"
CPP = EXAMPLES / "cpp"
STAND_IN = ROOT / "tests" / "data" / "tensorrt_stand_in"
COMPILER = shutil.which("g++") or shutil.which("clang++")
HEADER = "onnxruntime_cxx_api.h"
SIZE = 56

compiled = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")


def onnxruntime_headers() -> Path | None:
    """Where the C++ headers are: the wheel has none."""
    asked = os.environ.get("ONNXRUNTIME_INCLUDE")
    places = [Path(asked)] if asked else [Path(f"/usr{local}/include/onnxruntime") for local in ("", "/local")]
    return next((place for place in places if (place / HEADER).is_file()), None)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run_onnx, linked with the library of the Python package."""
    import onnxruntime

    headers = onnxruntime_headers()
    if headers is None:
        pytest.skip("no headers of ONNX Runtime: install Debian 13's libonnxruntime-dev, or set ONNXRUNTIME_INCLUDE")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    folder = tmp_path_factory.mktemp("cpp")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    if cmake := shutil.which("cmake"):
        given = [f"-DONNXRUNTIME_INCLUDE={headers}", f"-DONNXRUNTIME_LIBRARY={folder / 'libonnxruntime.so'}"]
        run([cmake, "-S", str(CPP), "-B", str(folder), *given, "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"])
        run([cmake, "--build", str(folder)])
    else:
        assert COMPILER is not None
        link = [f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"]
        source = str(CPP / "run_onnx.cpp")
        run([COMPILER, "-std=c++17", "-Wall", "-Wextra", f"-I{headers}", source, "-o", str(folder / "run_onnx"), *link])
    return folder / "run_onnx"


def run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@compiled
@pytest.mark.slow
def test_the_cpp_program_says_what_the_python_runner_says(program: Path, small_onnx: Path, tmp_path: Path) -> None:
    """PPM and raw frames in one call."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
    files = [tmp_path / "0.ppm", tmp_path / "1.f32", tmp_path / "2.ppm"]
    for file, frame, image in zip(files, pixels, images, strict=True):
        if file.suffix == ".ppm":
            file.write_bytes(b"P6 # a comment\n%d %d\n255\n" % (SIZE, SIZE) + frame.tobytes())
        else:
            file.write_bytes(image.tobytes())
    head, *lines = run([str(program), str(small_onnx), *map(str, files)]).splitlines()
    assert head == "frame tx ty tz qx qy qz qw fx fy"
    printed = np.array([line.split() for line in lines], np.float64)
    with OnnxRunner(small_onnx) as runner:
        poses = runner(images).pose_enc
    _, intrinsics = decode_pose(torch.from_numpy(poses).double(), SIZE, SIZE)
    assert printed[:, 0].tolist() == [0, 1, 2]
    assert printed[:, 1:8] == pytest.approx(poses[:, :7], abs=1e-5)
    assert printed[:, 8:] == pytest.approx(intrinsics[:, [0, 1], [0, 1]].numpy(), rel=1e-4)
    assert np.abs(np.diff(poses, axis=0)).max() > 1e-4  # frames are told apart


@compiled
@pytest.mark.slow
def test_the_cpp_program_names_mistakes(program: Path, small_onnx: Path, tmp_path: Path) -> None:
    short, large = tmp_path / "short.f32", tmp_path / "large.ppm"
    short.write_bytes(b"\0" * 100)
    large.write_bytes(b"P6 64 64 255\n" + b"\0" * (3 * 64 * 64))
    for words, expected in (
        ([small_onnx], "usage: run_onnx"),
        ([small_onnx, tmp_path / "none.ppm"], "cannot be read"),
        ([small_onnx, short], "another size than a frame"),
        ([small_onnx, large], f"expected {SIZE}x{SIZE} pixels"),
        ([tmp_path / "none.onnx", short], "none.onnx"),
    ):
        done = subprocess.run([str(program), *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert expected in done.stderr


@compiled
def test_the_tensorrt_twin_compiles(tmp_path: Path) -> None:
    """Against NVIDIA's headers where TENSORRT_ROOT says they are, else against a stand-in with their declarations."""
    assert COMPILER is not None
    root = os.environ.get("TENSORRT_ROOT")
    cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    include = [f"-I{root}/include", f"-I{cuda}/include"] if root else [f"-I{STAND_IN}"]
    run([COMPILER, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *include, str(CPP / "run_engine.cpp")])


def calls_in(path: Path) -> list[str]:
    """Its lines that call qvggt; backslashes join them."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^(?:RUN |- run: | *|.*&& )(qvggt [^#\n]+)", text, re.M)
    return [part.strip() for line in found for part in line.split("&&")]


FILES = sorted(path for path in EXAMPLES.rglob("*") if path.suffix in (".Dockerfile", ".yml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_call_in_them_is_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[Any] = []
    monkeypatch.setattr("qvggt.cli.commands.run_job", lambda job, *_: found.append(job))
    lines = calls_in(path)
    for line in lines:
        assert call(*shlex.split(line)[1:]) == 0, f"{line}: {capsys.readouterr().err}"
    assert len(found) == len([line for line in lines if "--version" not in line])
    assert lines


def test_there_are_images_for_both_and_a_workflow() -> None:
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile", "github-actions.yml"]


def test_the_workflow_exports_lints_and_checks_parity() -> None:
    import yaml

    workflow = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text(encoding="utf-8"))
    assert set(workflow) == {"name", True, "jobs", "permissions"}  # YAML 1.1 reads the key `on` as true
    (job,) = workflow["jobs"].values()
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    words = [line.split()[1] for line in calls_in(EXAMPLES / "github-actions.yml")]
    assert words == ["export", "lint", "eval"]  # an export proves parity itself, and exits with 1 where it fails


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".Dockerfile"], ids=lambda path: path.name)
def test_images_are_made_of_what_is_in_the_clone(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    words = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    known = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    assert {first for first, _ in words} <= known
    assert words[0][0] == "FROM"
    assert "Built nowhere" in lines[0]
    for first, rest in words:
        if first == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1])
    if pinned := re.findall(r"torch==(\S+)", " ".join(lines)):
        assert f"torch=={pinned[0]}" in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_linter_of_its_kind_has_nothing_to_say(path: Path) -> None:
    name = "actionlint" if path.suffix == ".yml" else "hadolint"
    place = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if (tool := shutil.which(name, path=place)) is None:
        pytest.skip(f"{name} is not installed: pip install {name}-{'py' if name == 'actionlint' else 'bin'}")
    run([tool, str(path)])
