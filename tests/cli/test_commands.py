"""What every command has because it is made from a job: --config, --save-config, --json, -q, -v, -h, examples."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from calling import call, mistake
from small_network import small_scenes

from qvggt.cli import main
from qvggt.cli.main import NAMES
from qvggt.jobs.job import JOBS, read_job
from qvggt.jobs.scenes import ScenesJob

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--train", "1", "--test", "0", "--frames", "1", "--size", "14")


def test_a_call_is_saved_and_given_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.json"
    assert call("scenes", tmp_path / "s", *SMALL, "--save-config", file) == 0
    assert not (tmp_path / "s").exists(), "saving a call does not run it"
    assert "qvggt scenes --config" in capsys.readouterr().err
    assert "exists already" in mistake(capsys, "scenes", tmp_path / "s", "--save-config", file)
    assert read_job(file) == ScenesJob(tmp_path / "s", train=1, test=0, frames=1, size=(14, 14))
    assert call("scenes", "--config", file) == 0
    assert "1 train + 0 test scenes of 1 frames, 14x14" in capsys.readouterr().out


def test_options_beside_a_config_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ScenesJob(tmp_path / "s", train=1, test=0, frames=1, size=(14, 14)).save(tmp_path / "job.json")
    assert call("scenes", tmp_path / "other", "--config", file, "--frames", 2) == 0
    assert f"{tmp_path / 'other'}: 1 train + 0 test scenes of 2 frames" in capsys.readouterr().out
    assert not (tmp_path / "s").exists()


def test_a_config_must_be_a_job_of_that_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ScenesJob(tmp_path / "s").save(tmp_path / "job.json")
    assert "job: expected \"lint\", got 'scenes'" in mistake(capsys, "lint", "--config", file)
    file.write_text(file.read_text().replace('"train"', '"trian"'))
    assert "unknown key 'trian'" in mistake(capsys, "scenes", "--config", file)
    assert "no JSON" in mistake(capsys, "scenes", "--config", Path(__file__))
    assert not (tmp_path / "s").exists()


def test_json_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("scenes", tmp_path / "s", *SMALL, "--json", "-") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rendered"] == 1
    assert "1 rendered" in captured.err


def test_json_to_a_file_is_not_replaced_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.json"
    assert call("scenes", tmp_path / "s", *SMALL, "--json", file) == 0
    before = file.read_bytes()
    capsys.readouterr()
    assert "exists already" in mistake(capsys, "scenes", tmp_path / "s", *SMALL, "--json", file)
    assert file.read_bytes() == before
    assert call("scenes", tmp_path / "s", *SMALL, "--json", file, "--overwrite") == 0
    assert json.loads(file.read_text())["reused"] == 1


def test_quiet_and_verbose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "contradict" in mistake(capsys, "scenes", tmp_path / "s", *SMALL, "-q", "-v")
    assert call("scenes", tmp_path / "s", *SMALL, "-q") == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_an_interrupted_job_says_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ScenesJob, "execute", stop)
    assert call("scenes", tmp_path / "s") == 130
    assert capsys.readouterr().err.startswith("interrupted; nothing was kept")
    (tmp_path / "s" / "synthetic").mkdir(parents=True)
    assert call("scenes", tmp_path / "s") == 130
    assert f"kept {tmp_path / 's' / 'synthetic'}: the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [name] if name in NAMES else ["eval", name]
    assert call(*words, flag) == 0
    out = capsys.readouterr().out
    assert f"qvggt {' '.join(words)} " in out
    assert "--config" in out


def test_the_root_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    out = capsys.readouterr().out
    for name in NAMES:
        assert f"  {name} " in out
    assert "--install-completion" in out
    assert call("nothing") == 2


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("deploy", "annotate")])
def test_the_old_names_are_the_same_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As pyproject.toml names them."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, function = scripts[f"qvggt-{name}"].split(":")
    with pytest.raises(SystemExit) as done:
        getattr(import_module(module), function)(["-h"])
    assert done.value.code == 0
    old = capsys.readouterr().out
    assert call(name, "-h") == 0
    assert old.replace(f"qvggt-{name}", f"qvggt {name}") == capsys.readouterr().out


def test_the_calls_of_the_card(small_float: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`qvggt-export --bits w4a4`, then `qvggt-eval --engine` on Co3D: what scripts out there call."""
    small_scenes(tmp_path / "co3d", 2, range(0), range(90, 92), "apple")
    file = tmp_path / "m.onnx"
    for script, words in (
        (main.export, [small_float, "--bits", "w4a4", "-o", file, "--parity-sequences", 0, "--parity-frames", "1"]),
        (main.evaluate, ["--engine", file, "--root", tmp_path / "co3d", "--frames", 2, "--min-frames", 2]),
    ):
        with pytest.raises(SystemExit) as done:
            script([str(word) for word in words])
        assert done.value.code == 0, capsys.readouterr().err
    assert "AUC@30" in capsys.readouterr().out
