"""The plan of the demo: every step reads only what an earlier one wrote, and prints as one would type it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import demo
import pytest

from qvggt.errors import QvggtError

ROOT = Path(__file__).resolve().parent.parent.parent


def test_steps_read_what_earlier_steps_wrote(tmp_path: Path) -> None:
    steps = demo.plan("tiny", tmp_path, train=8, test=48)
    made: set[Path] = set()
    for step in steps:
        for path in step.inputs:
            assert path in made or path.exists(), f"{step.name} reads {path}, which no earlier step writes"
        assert not made & set(step.outputs), f"{step.name} writes what another step wrote"
        made |= set(step.outputs)
    assert len({step.name for step in steps}) == len(steps)
    assert {tmp_path / name for name in ("results.json", "depth.png", "tiny-w8a8.onnx", "tiny-w4a4.onnx")} <= made


def test_every_path_in_a_command_is_declared(tmp_path: Path) -> None:
    for step in demo.plan("tiny", tmp_path, train=8, test=48):
        named = {Path(part) for part in step.command[1:] if part.startswith(str(tmp_path))}
        assert named <= {*step.inputs, *step.outputs}, step.name


def test_commands_are_shown_as_typed(tmp_path: Path) -> None:
    lines = [demo.shown(step.command) for step in demo.plan("tiny", tmp_path, train=8, test=48)]
    assert lines[0] == f"qvggt-scenes {tmp_path}/scenes --train 8 --test 48 --frames 8 --size 70x70"
    assert {line.split()[0] for line in lines} == {
        "qvggt-scenes",
        "qvggt-calibrate",
        "qvggt-export",
        "qvggt-eval",
        "python",
    }


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(QvggtError, match="no such file"):
        demo.plan(str(tmp_path / "absent.safetensors"), tmp_path, train=8, test=48)
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--model", "absent.pt", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: absent.pt: no such file")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_code_and_versions_is_stable() -> None:
    assert demo.code_and_versions() == demo.code_and_versions()
