"""What a call costs before it works: help, mistakes and completion load no heavy package; what is completed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from calling import call, light_calls

from qvggt.cli import main
from qvggt.jobs.job import JOBS, Doc, annotation, find_job, hints

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "openvino", "PIL", "scipy", "sklearn", "safetensors", "jinja2"}
HEAVY |= {"huggingface_hub", "trimesh", "pycolmap", "matplotlib", "pandas"}

QVGGT = """
import sys
from qvggt.cli.main import main
try: main(sys.argv[1:])
finally: print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def qvggt(*args: str, **environment: str) -> tuple[int, str, str, set[str]]:
    """`qvggt args` in a fresh interpreter: exit code, stdout, stderr, and the heavy packages that were loaded."""
    done = subprocess.run(
        [sys.executable, "-c", QVGGT, *args],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    err, marker, loaded = done.stderr.rpartition("LOADED ")
    assert marker, done.stderr
    return done.returncode, done.stdout, err, set(loaded.split()) & HEAVY


@pytest.mark.parametrize("name", JOBS)
def test_help_is_light(name: str) -> None:
    words = (next((above for above, below in main.BELOW.items() if name in below), None), name)
    code, out, _, loaded = qvggt(*filter(None, words), "-h")
    assert code == 0
    assert "--json FILE" in out
    assert not loaded


@pytest.mark.parametrize("args", [[], ["-h"]], ids=["bare", "-h"])
def test_what_the_command_says_of_itself(args: list[str]) -> None:
    code, out, err, loaded = qvggt(*args)
    assert (code, err) == (0, "")
    assert all(f"\n  {name}" in out for name in JOBS if name in main.NAMES)
    assert not loaded


FAULTS = ("bogus", "w3a3", "tail", "gone", "nowhere", "8:1", "big", "obj", "clouds", "tpu", "magic", "no-owner", "a:b")
FAULTS += (".: exists already",)
"""What is wrong in the calls below, of which an error speaks."""


MISTAKES = tuple(
    tuple(line.split())
    for line in (
        "bogus",
        "calibrate --bogus",
        "calibrate tiny --bits w3a3 -o x",
        "calibrate tiny --parts tail -o x",
        "calibrate gone.safetensors --recipe rtn -o x",
        "export tiny --bits w3a3 -o x.onnx",
        "export gone.safetensors -o x.onnx",
        "eval --bogus",
        "eval --model tiny --dataset nowhere --root x",
        "deploy tiny --format w3a3 -o x",
        "lint gone.onnx",
        "build gone.onnx -o x.engine",
        "build gone.onnx -o x.engine --frames 8:1",
        "scenes x --size big",
        "reconstruct gone --model tiny -o x",
        "reconstruct README.md --model gone.safetensors -o x",
        "reconstruct README.md --model tiny -o x --formats obj",
        "reconstruct README.md --model tiny -o x --mask clouds",
        "reconstruct README.md --model tiny -o x --masks gone",
        "reconstruct README.md --model tiny -o x --device tpu",
        "reconstruct README.md --engine gone.onnx -o x --runtime magic",
        "demo --engine gone.onnx",
        "demo --model gone.safetensors",
        "push gone me/x",
        "push gone no-owner",
        "push gone me/x --licence a:b",
        "pull no-owner -o x",
        "pull me/x -o .",
    )
)


@pytest.mark.parametrize("line", MISTAKES, ids=" ".join)
def test_a_mistake_is_found_before_anything_heavy(line: tuple[str, ...]) -> None:
    code, out, err, loaded = light_calls(MISTAKES, ROOT)[line]
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert any(fault in err for fault in FAULTS), err
    assert not loaded & HEAVY


COMPLETIONS = [
    pytest.param("qvggt ", set(JOBS) & set(main.NAMES), id="commands"),
    pytest.param("qvggt reco", {"reconstruct"}, id="a command"),
    pytest.param("qvggt calibrate --", {"--bits", "--recipe", "--overwrite"}, id="calibrate"),
    pytest.param("qvggt calibrate --bits w", {"w8a8", "w4a4"}, id="formats"),
    pytest.param("qvggt eval mer", {"merge"}, id="below another"),
    pytest.param("qvggt reconstruct --", {"--model", "--formats", "--json", "--config"}, id="options"),
    pytest.param("qvggt reconstruct --formats glb,co", {"glb,colmap"}, id="words with commas"),
    pytest.param("qvggt reconstruct --points ", {"depth", "head"}, id="choices"),
    pytest.param("qvggt reconstruct --runtime op", {"openvino"}, id="runtimes"),
    pytest.param("qvggt lint ", set(), id="files are the shell's"),
    pytest.param("qvggt lint x --json ", set(), id="of options too"),
]


@pytest.mark.parametrize(("line", "expected"), COMPLETIONS)
def test_completion(line: str, expected: set[str]) -> None:
    words = line.split(" ")
    environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code, out, err, loaded = qvggt(_QVGGT_COMPLETE="complete_bash", **environment)
    assert (code, err) == (0, "")
    found = set(out.split())
    assert expected <= found
    assert all(word.startswith(words[-1]) for word in found)
    assert bool(found) is bool(expected)
    assert not loaded


def test_zsh_falls_back_to_files() -> None:
    for line, expected in (("qvggt lint m", "_files"), ("qvggt reco", '"reconstruct"')):
        assert expected in qvggt(_QVGGT_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)[1]


@pytest.mark.parametrize(("shell", "words"), [("zsh", "#compdef qvggt"), ("fish", "complete --command qvggt")])
def test_scripts_of_other_shells(shell: str, words: str) -> None:
    code, out, _, _ = qvggt("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert code == 0
    assert words in out


def test_bash_completes(tmp_path: Path) -> None:
    """The script that users install, run by bash itself."""
    (tmp_path / "qvggt").write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(QVGGT)} "$@" 2>/dev/null\n')
    (tmp_path / "qvggt").chmod(0o755)
    (tmp_path / "script").write_text(
        qvggt("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")[1]
    )
    lines = """
        source script; complete -p qvggt
        COMP_WORDS=(qvggt reconstruct --dep); COMP_CWORD=2; _qvggt_completion qvggt; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", lines],
        cwd=tmp_path, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["complete -o default -F _qvggt_completion qvggt", "--depth-size"]


def documented() -> list[tuple[str, str, Doc]]:
    found = [(name, field, annotation(hint, Doc)) for name in JOBS for field, hint in hints(find_job(name)).items()]
    return [(name, field, doc) for name, field, doc in found if doc is not None]


@pytest.mark.parametrize(("name", "field", "doc"), [found for found in documented() if found[2].words])
def test_the_words_to_complete(name: str, field: str, doc: Doc) -> None:
    words: Sequence[str] = doc.words() if callable(doc.words) else doc.words
    assert words
    assert all(isinstance(word, str) and word for word in words)


EXAMPLES = [(name, line) for name in JOBS for line in find_job(name).examples]


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_examples_are_calls(name: str, line: str, tmp_path: Path) -> None:
    program, *words = shlex.split(line, comments=True)
    assert program == "qvggt"
    assert call(words[0], *words[1:], "--save-config", tmp_path / "job.json") == 0
    assert json.loads((tmp_path / "job.json").read_text())["job"] in (name, *words[:2])


def test_the_older_name_of_overwrite(tmp_path: Path) -> None:
    assert call("pull", "me/x", "-o", "y", "--force", "--save-config", tmp_path / "job.json") == 0
    assert json.loads((tmp_path / "job.json").read_text())["overwrite"] is True
