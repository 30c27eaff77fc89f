"""qvggt demo up to the point where it would serve; the page itself is tested in eval/demo."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import calling
import pytest

from qvggt.eval.demo import page
from qvggt.jobs.demo import DemoJob
from qvggt.jobs.job import read_job

pytest.importorskip("trimesh", reason="the extra reconstruct is not installed")
pytest.importorskip("pycolmap", reason="the extra reconstruct is not installed")


call = partial(calling.call, "demo")


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command sets for its process."""
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(signal, "signal", lambda *args: None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--engine", "gone.onnx"), ("gone.onnx", "no such file")),
        (("--model", "gone.safetensors"), ("gone.safetensors", "no such file")),
        (("--model", "tiny", "--model", "tiny"), ("different names",)),
        (("--port", "0"), ("--port",)),
        (("--max-images", "0"), ("--max-images",)),
        (("--device", "tpu"), ("tpu", "cpu")),
        (("--precision", "bf16", "--engine", __file__), ("--precision bf16", "no --model")),
    ],
)
def test_mistakes_in_the_call(
    options: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    error = calling.mistake(capsys, "demo", *options)
    assert all(word in error for word in words), error


def test_the_precision_of_float_models() -> None:
    job = DemoJob(models=("tiny",), engines=(__file__,), precision="bf16")
    (model, engine) = (choice.open for choice in job.choices())
    with model() as runner:
        assert runner.label == "torch float (bf16 aggregator) tiny"
    assert "precision" not in engine.keywords  # type: ignore[attr-defined]


def test_without_gradio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert call() == 2
    assert ".[demo]" in capsys.readouterr().err


@pytest.mark.parametrize("device", [(), ("--device", "cpu")])
def test_an_engine_without_a_gpu(
    device: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known before the page is served, and not answered with "use cpu"."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (tmp_path / "m.engine").touch()
    error = calling.mistake(capsys, "demo", "--engine", tmp_path / "m.engine", *device)
    assert "m.engine: an engine runs on an NVIDIA GPU" in error
    assert "or evaluate its ONNX file here" in error
    assert "use cpu" not in error


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a Gradio that serves nothing is asked for."""
    asked: dict[str, Any] = {}

    class Page:
        def queue(self, **options: Any) -> Page:
            return self

        def launch(self, **options: Any) -> tuple[None, str, None]:
            asked.update(options, uploads=os.environ["GRADIO_TEMP_DIR"])
            Path(os.environ["GRADIO_TEMP_DIR"]).mkdir()
            return None, "http://127.0.0.1:9999/", None

    fake: Any = ModuleType("gradio")
    fake.themes = ModuleType("themes")
    fake.themes.Default = lambda **fonts: fonts
    monkeypatch.setitem(sys.modules, "gradio", fake)
    monkeypatch.setattr(page, "build_page", lambda workshop: Page())
    return asked


@pytest.mark.parametrize("share", [False, True])
def test_it_serves_the_loopback_address_and_cleans_up(
    share: bool, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--port", 9999, *(["--share"] if share else [])) == 0
    assert asked["server_name"] == "127.0.0.1"
    assert asked["share"] is share
    assert asked["max_file_size"] == 30_000_000
    assert asked["theme"] == {"font": page.FONTS, "font_mono": page.MONO}
    printed = capsys.readouterr().out
    assert ("PUBLIC INTERNET" in printed) is share
    assert not Path(asked["uploads"]).parent.exists()


def test_the_result_says_what_was_served(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").touch()  # opened when it is first used
    assert call("--model", "tiny", "--engine", tmp_path / "m.onnx", "--port", 9999, "--json", "-") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"url": "http://127.0.0.1:9999", "choices": ["tiny", "m.onnx"]}
    assert "Ctrl-C ends it" in printed.err


def test_the_job_travels_as_json(tmp_path: Path) -> None:
    job = DemoJob(models=("tiny",), engines=("a/m.onnx",), share=True)
    assert job.engines == (Path("a/m.onnx"),)
    assert read_job(job.save(tmp_path / "job.json")) == job
    assert call("--config", tmp_path / "job.json", "--port", 8000, "--save-config", tmp_path / "other.json") == 0
    assert read_job(tmp_path / "other.json") == DemoJob(models=("tiny",), engines=("a/m.onnx",), share=True, port=8000)
