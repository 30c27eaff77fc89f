"""What every command has because it is made from a job: --config, --save-config, --json, -q, -v, -h, examples."""

from __future__ import annotations

import json
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from calling import call, mistake

from qvggt.cli.commands import job_of
from qvggt.cli.main import NAMES, app, make_command
from qvggt.jobs.job import JOBS, find_job, read_job
from qvggt.jobs.scenes import ScenesJob
from qvggt.progress import Console

SMALL = ("--train", "1", "--test", "0", "--frames", "1", "--size", "14")


def test_a_call_is_saved_and_given_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.json"
    assert call("scenes", tmp_path / "s", *SMALL, "--save-config", file) == 0
    assert not (tmp_path / "s").exists(), "saving a call does not run it"
    assert "qvggt scenes --config" in capsys.readouterr().err
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
    class Loud(Console):
        pass

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
def test_examples_are_calls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example parses into a job of the command it names."""
    found: list[Any] = []
    monkeypatch.setattr("qvggt.cli.commands.run_job", lambda job, options: found.append(job))
    for example in find_job(name).examples:
        words = shlex.split(example.split("  ")[0], comments=True)
        assert words[0] == "qvggt", example
        assert call(*words[1:]) == 0, example
        assert found, example
    if find_job(name).examples:
        assert any(job.name == name for job in found)


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


def test_aliases_are_the_same_commands() -> None:
    for name in NAMES:
        alias = {"eval": "evaluate", "deploy": None}.get(name, name)
        if alias is not None:
            function = getattr(import_module("qvggt.cli.main"), alias)
            assert function.args == (name,)
            assert [p.name for p in make_command(name).params]
    assert app is not None
    assert job_of is not None
