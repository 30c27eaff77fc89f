"""The deployment: which steps it has, that it goes on where it was, and what it says at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import call, interrupted, mistake

import qvggt
from qvggt.errors import QvggtError
from qvggt.hub.names import find_weights
from qvggt.jobs.build import BuildJob
from qvggt.jobs.calibrate import CalibrateJob
from qvggt.jobs.deploy import DeployJob, Plan
from qvggt.jobs.export import ExportJob


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs, in a folder of their own."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(10):
        small = rng.integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(small).resize((80, 60)).save(folder / f"p{index}.jpg")
    return folder


def plan(job: DeployJob) -> Plan:
    return Plan(job, find_weights(str(job.model)))


@pytest.mark.parametrize(
    "options",
    [{}, {"formats": ("w8a8", "w4a4"), "baselines": ("rtn",)}, {"to": "engine"}],
    ids=["one", "two", "engine"],
)
def test_steps_read_what_earlier_steps_wrote(tmp_path: Path, options: dict[str, Any]) -> None:
    steps = plan(DeployJob("tiny", tmp_path, **options)).steps()
    made: set[Path] = set()
    for step in steps:
        for path in step.inputs:
            assert path in made or path.exists(), f"{step.name} reads {path}, which no earlier step writes"
        assert not made & set(step.outputs), f"{step.name} writes what another step wrote"
        made |= {*step.outputs, step.result}
    assert len({step.name for step in steps}) == len(steps)
    assert {tmp_path / "results.json", tmp_path / "report.html"} <= made


def test_the_device_is_that_of_calibration_and_gates(tmp_path: Path) -> None:
    steps = plan(DeployJob("tiny", tmp_path, device="cuda:1")).steps()
    on = {type(step.job).name: getattr(step.job, "device", None) for step in steps}
    assert (on["calibrate"], on["export"], on["eval"]) == ("cuda:1", "cuda:1", None)


def test_attention_is_that_of_every_calibration(tmp_path: Path) -> None:
    steps = plan(DeployJob("tiny", tmp_path, baselines=("rtn",), attention="fp8")).steps()
    asked = [step.job.attention for step in steps if isinstance(step.job, CalibrateJob)]
    assert asked == ["fp8", "fp8"]
    with pytest.raises(QvggtError, match="--attention int8"):
        DeployJob("tiny", tmp_path, attention="int8")


def test_outputs_are_named_after_the_model(small_float: Path, tmp_path: Path) -> None:
    assert Plan(DeployJob(small_float, tmp_path), small_float).stem == "float"
    assert Plan(DeployJob("facebook/VGGT-1B", tmp_path), small_float).stem == "VGGT-1B"
    assert plan(DeployJob("tiny", tmp_path)).checkpoint("w8a8", "rtn") == tmp_path / "tiny-w8a8-rtn"


def test_an_engine_is_built_where_the_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = plan(DeployJob("tiny", tmp_path, to="engine"))
    assert ("build w8a8" in [step.name for step in there.steps()]) == (there.backend is not None)
    monkeypatch.setattr("qvggt.jobs.deploy.find_spec", lambda name: None)
    without = plan(DeployJob("tiny", tmp_path, to="engine"))
    assert "build w8a8" not in [step.name for step in without.steps()]
    assert any("neither TensorRT-RTX nor TensorRT is installed" in note for note in without.notes)


@pytest.mark.parametrize(
    ("capability", "installed", "backend", "exported", "note"),
    [
        ("8.9", ("tensorrt_rtx", "tensorrt"), "rtx", "rtx", ""),
        ("9.0", ("tensorrt_rtx", "tensorrt"), "tensorrt", "tensorrt", ""),
        (
            "9.0",
            ("tensorrt_rtx",),
            None,
            "tensorrt",
            "no engine: TensorRT-RTX has no kernels",
        ),
        ("", ("tensorrt",), "tensorrt", "tensorrt", ""),
        ("", (), None, "rtx", "neither TensorRT-RTX nor TensorRT is installed"),
    ],
)
def test_the_builder_and_its_files_fit_the_gpu(
    capability: str,
    installed: tuple[str, ...],
    backend: str | None,
    exported: str,
    note: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qvggt.jobs.deploy.capability_here", lambda: capability)
    monkeypatch.setattr("qvggt.jobs.deploy.find_spec", lambda name: name if name in installed else None)
    made = plan(DeployJob("tiny", tmp_path, to="engine", formats=("w4a4",)))
    jobs = [step.job for step in made.steps()]
    assert made.backend == backend
    assert {job.backend for job in jobs if isinstance(job, ExportJob)} == {exported}
    assert {job.backend for job in jobs if isinstance(job, BuildJob)} == ({backend} if backend else set())
    assert any(note in text for text in made.notes)


def test_photographs_in_one_call_interrupted_twice(
    photos: Path, small_float: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrated, exported, proven and evaluated on ten photographs; every interruption keeps what was finished."""
    out = tmp_path / "out"
    words = ("deploy", small_float, "--format", "w8a8", "--data", photos, "-o", out)
    words = (*words, "--sequences", 2, "--test-sequences", 2, "--frames", 2)
    served = tmp_path / "served"
    for job in (ExportJob, qvggt.jobs.evaluate.EvaluateJob):  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            patch.setattr(job, "execute", interrupted(job.execute, [], 1))
            assert call(*words) == 130
        err = capsys.readouterr().err
        assert f"interrupted; kept {out / 'deploy.jsonl'}" in err
        assert "the same command goes on" in err
    calls: list[int] = []
    monkeypatch.setattr(CalibrateJob, "execute", interrupted(CalibrateJob.execute, calls, 99))
    assert call(*words, "--triton", served, "--json", tmp_path / "r.json") == 0
    assert (served / "float_w8a8_onnxruntime/1/model.onnx").read_bytes() == (out / "float-w8a8.onnx").read_bytes()
    assert not calls, "the checkpoint was finished before the first interruption"
    captured = capsys.readouterr()
    assert f"{served / 'float_w8a8_onnxruntime'}: for Triton's onnxruntime backend" in captured.out
    assert "report: " in captured.out.splitlines()[-2]
    assert "they are no accuracy" in captured.out
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["passed"]
    assert [step["step"] for step in result["steps"]] == ["calibrate w8a8", "export fp32", "export w8a8", "evaluate"]
    *in_torch, whole, rounded = result["rows"]
    assert [row["bytes"] for row in in_torch] == [None, None], "checkpoints are stored in another precision"
    assert whole["size_ratio"] == 1
    assert whole["bytes"] == (out / "float-fp32.onnx").stat().st_size
    assert rounded["size_ratio"] == rounded["bytes"] / whole["bytes"]
    assert whole["pose_db"] > 80
    assert rounded["pose_db"] > 20
    assert (out / "report.html").stat().st_size > 10_000
    report = json.loads((out / "results.json").read_text())
    assert any("no ground truth" in note for note in report["notes"])

    assert call(*words, "-q") == 0  # all of it reused, --triton or not
    again = capsys.readouterr().out
    assert "float" in again
    assert not calls
    assert "another configuration" in mistake(capsys, *words, "--seed", 3)


def test_a_folder_of_others_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("precious")
    assert "holds other files and no deploy.jsonl" in mistake(capsys, "deploy", "tiny", "-o", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "w3a3"), "unknown bits"),
        (("--format", ""), "--format: expected one format or more"),
        (("--recipe", "best"), "unknown recipe"),
        (("--baselines", "qvggt"), "is the recipe itself"),
        (("--data", "nowhere"), "--data nowhere: is no folder"),
        (("--to", "phone"), "'phone' is not one of"),
        (("--triton", "."), "--triton .: holds other files"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str) -> None:
    assert words in mistake(capsys, "deploy", "tiny", "-o", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_failed_gate_ends_it_with_1(
    small_float: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qvggt.jobs.export import ExportResult

    monkeypatch.setattr(ExportResult, "passed", False)
    words = ("deploy", small_float, "-o", tmp_path / "out", "--recipe", "rtn", "--frames", 2, "--no-float-file")
    assert call(*words, "--sequences", 1, "--test-sequences", 2) == 1
    assert "FAILED: export w8a8" in capsys.readouterr().out
    assert not (tmp_path / "out" / "results.json").exists()
