"""The README's commands and Python code, run as they are written there.

Every line of a bash block must be run here or be named in NOT_RUN with its reason. The default test makes a few
commands smaller (SMALLER); the slow one runs them to the letter.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from calling import call

from qvggt.cli.main import NAMES

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {f"qvggt {name}" for name in NAMES}

NOT_RUN = {
    "git clone": "needs the network; this is the clone",
    "make setup": "minutes, and it made the environment this test runs in",
    "make demo": "minutes; is the call of qvggt deploy that is run here",
    "make test": "is this suite",
    "source .venv/bin/activate": "the commands are called in the environment that runs the tests",
    "qvggt push": "needs an account; tests/cli/test_share_commands.py runs it against a local Hub",
    "qvggt pull": "needs the network; tests/cli/test_share_commands.py runs it against a local Hub",
}
SMALLER = {
    "qvggt scenes": (("--train 64", "--train 2"), ("--test 32", "--test 2")),
    "qvggt calibrate": (("--bits w4a4", "--bits w4a4 --sequences 2 --epochs 1"),),
    "qvggt export": (("-o ", "--parity-sequences 0 --parity-frames 1,2 -o "),),
    "qvggt deploy": (
        ("w8a8,w4a4 --baselines rtn", "w8a8"),
        ("-o ", "--recipe quarot --sequences 2 --test-sequences 3 -o "),
    ),
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
    """Run one command line in this process."""
    assert call(*shlex.split(command)[1:]) == 0, command


def head(command: str) -> str:
    """Such as "qvggt eval"."""
    return " ".join(command.split()[:2])


def run_python() -> None:
    (code,) = blocks("python")
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert Path("outputs/python-w8a8.onnx.parity.json").is_file()
    assert Path("outputs/predictions.png").stat().st_size > 10_000
    assert isinstance(scope["runner"], __import__("qvggt").Runner)
    depth = getattr(scope["predictions"], "depth")  # noqa: B009 (an object to the type checker)
    assert depth.shape == (8, 70, 70)


def test_every_command_is_run_or_has_a_reason() -> None:
    found = commands()
    assert [line for line in found if reason(line) is None and head(line) not in COMMANDS] == []
    assert {head(line) for line in found if reason(line) is None} >= set(SMALLER) | {"qvggt eval"}
    for start in NOT_RUN:
        assert any(line.startswith(start) for line in found), f"{start}: no longer in README.md"


def test_commands_and_code_in_small(here: Path) -> None:
    for line in commands():
        if reason(line) is None:
            for old, new in SMALLER.get(head(line), ()):
                assert old in line, f"{line}: no {old!r} to make smaller"
                line = line.replace(old, new)
            run_line(line)
    run_python()
    outputs = {path.name for path in (here / "outputs").iterdir()}
    assert outputs >= {"scenes", "tiny-w4a4", "tiny-w4a4.onnx", "eval.json", "demo", "python-w8a8.onnx"}


@pytest.mark.slow
def test_commands_and_code_to_the_letter() -> None:
    for line in commands():
        if reason(line) is None:
            run_line(line)
    run_python()
