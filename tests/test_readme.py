"""The README's commands and Python code, run as they are written there.

Every line of a bash block must be run here or be named in NOT_RUN with its reason. The default test makes a few
commands smaller (SMALLER); the slow one runs them to the letter.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from qvggt.cli.common import run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]

NOT_RUN = {
    "git clone": "needs the network; this is the clone",
    "make setup": "minutes, and it made the environment this test runs in",
    "make demo": "minutes; tests/tools/test_demo.py runs its steps",
    "make test": "is this suite",
    "source .venv/bin/activate": "the commands are called in the environment that runs the tests",
    "qvggt-push": "needs an account; tests/cli/test_share_commands.py runs it against a local Hub",
    "qvggt-pull": "needs the network; tests/cli/test_share_commands.py runs it against a local Hub",
}
SMALLER = {
    "qvggt-scenes": (("--train 64", "--train 2"), ("--test 32", "--test 2")),
    "qvggt-calibrate": (("--bits w4a4", "--bits w4a4 --sequences 2 --epochs 1"),),
    "qvggt-export": (("-o ", "--parity-sequences 0 --parity-frames 1,2 -o "),),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


def commands() -> list[str]:
    """Command lines of the bash blocks, continued lines joined, without comments."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in (shlex.join(shlex.split(line, comments=True)) for line in lines) if line]


def reason(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


def run_line(command: str) -> None:
    """Run one command line in this process, through the entry point that pip installs."""
    name, *args = shlex.split(command)
    app = import_module(SCRIPTS[name].split(":")[0]).app
    with pytest.raises(SystemExit) as end:
        run(app, args)
    assert not end.value.code, command


def run_python() -> None:
    (code,) = blocks("python")
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert Path("outputs/python-w4a4/quant.json").is_file()
    assert isinstance(scope["runner"], __import__("qvggt").Runner)
    depth = getattr(scope["predictions"], "depth")  # noqa: B009 (an object to the type checker)
    assert depth.shape == (8, 70, 70)


def test_every_command_is_run_or_has_a_reason() -> None:
    found = commands()
    assert [line for line in found if reason(line) is None and line.split()[0] not in SCRIPTS] == []
    assert {line.split()[0] for line in found if reason(line) is None} >= set(SMALLER) | {"qvggt-eval"}
    for start in NOT_RUN:
        assert any(line.startswith(start) for line in found), f"{start}: no longer in README.md"


def test_commands_and_code_in_small(here: Path) -> None:
    for line in commands():
        if reason(line) is None:
            for old, new in SMALLER.get(line.split()[0], ()):
                assert old in line, f"{line}: no {old!r} to make smaller"
                line = line.replace(old, new)
            run_line(line)
    run_python()
    outputs = {path.name for path in (here / "outputs").iterdir()}
    assert outputs >= {"scenes", "tiny-w4a4", "tiny-w4a4.onnx", "eval.json", "python-w4a4"}


@pytest.mark.slow
def test_commands_and_code_to_the_letter() -> None:
    for line in commands():
        if reason(line) is None:
            run_line(line)
    run_python()
