"""qvggt from Python: what docs/api.md shows is run by test_docs_run.py; here what it does not show."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_network import small_images, small_scenes

import qvggt

ROOT = Path(__file__).resolve().parent.parent
JOBS = ("calibrate", "export_onnx", "lint", "build", "evaluate", "reconstruct", "deploy")


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture(scope="module")
def folder(small_float: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    shutil.copy(small_float, folder)
    small_scenes(folder / "scenes", 3, range(2), range(50, 52))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> qvggt.Model:
    return qvggt.load(folder / "float.safetensors")


@pytest.fixture
def images() -> torch.Tensor:
    return small_images(2)


def test_quantize_leaves_the_float_model_alone(model: qvggt.Model, images: torch.Tensor) -> None:
    before = model(images)["depth"]
    quantized = qvggt.quantize(model, "w4a4")
    assert torch.equal(model(images)["depth"], before)
    assert not torch.equal(quantized(images)["depth"], before)
    assert quantized.scheme is not None
    assert quantized.scheme.label == "w4a4-dynamic"
    assert model.scheme is None
    assert not model.layers
    assert quantized.layers["aggregator.frame_blocks.0.mlp.fc2"]["weight_sqnr_db"]


def test_a_saved_model_is_loaded_bit_for_bit(model: qvggt.Model, images: torch.Tensor, tmp_path: Path) -> None:
    quantized = qvggt.quantize(model, "w8a8")
    again = qvggt.load(quantized.save(tmp_path / "c"))
    assert torch.equal(again(images)["depth"], quantized(images)["depth"])
    assert again.provenance.source["sha256"] == model.sha256
    plain = qvggt.load(model.save(tmp_path / "f.safetensors"))
    assert torch.equal(plain(images)["depth"], model(images)["depth"])
    with pytest.raises(qvggt.QvggtError, match=r"ending in \.safetensors"):
        model.save(tmp_path / "f")


def test_static_ranges_are_observed_on_batches(model: qvggt.Model, images: torch.Tensor) -> None:
    static = qvggt.quantize(model, "w8a8", act="static", batches=[images, images.flip(0)])
    assert static.scheme is not None
    assert static.scheme.label == "w8a8-static"
    assert torch.isfinite(static(images)["depth"]).all()


def test_calibrate_is_the_command(model: qvggt.Model, folder: Path, images: torch.Tensor, tmp_path: Path) -> None:
    """A model in memory and its file give the same checkpoint, and the model is not changed."""
    before = model(images)["depth"]
    options = {"format": "w4a4", "data": folder / "scenes", "sequences": 2, "frames": 2, "epochs": 1, "threads": 1}
    held = qvggt.calibrate(model, tmp_path / "a", **options)  # type: ignore[arg-type]
    named = qvggt.calibrate(folder / "float.safetensors", str(tmp_path / "b"), **options)  # type: ignore[arg-type]
    assert torch.equal(model(images)["depth"], before)
    for name in ("model.safetensors",):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    record = json.loads((tmp_path / "a" / "quant.json").read_text())
    assert record["calibration"]["threads"] == 1
    assert torch.equal(held.model(images)["depth"], qvggt.load(tmp_path / "b")(images)["depth"])
    assert named.passed


def test_export_proves_what_the_command_proves(model: qvggt.Model, tmp_path: Path) -> None:
    quantized = qvggt.quantize(model, "w8a8")
    exported = qvggt.export_onnx(quantized, tmp_path / "q.onnx", parity_sequences=2, parity_frames=(1, 2))
    assert exported.passed
    assert exported.lint.passed
    assert exported.parity is not None
    assert len(exported.parity.linears) == len(quantized.layers)
    assert exported.parity.auc30 is not None, "cameras are part of the check"
    assert (tmp_path / "q.onnx.parity.json").is_file()
    with qvggt.open_runner(exported.path) as onnx, qvggt.open_runner(quantized) as torch_runner:
        pixels = small_images(2).numpy()
        assert abs(onnx(pixels).pose_enc - torch_runner(pixels).pose_enc).max() < 0.05
    unchecked = qvggt.export_onnx(
        model, tmp_path / "f.onnx", format="fp32", size=(28, 56), outputs=("pose",), parity=False
    )
    assert unchecked.parity is None


def test_evaluate_models_files_and_memory(model: qvggt.Model, folder: Path, small_onnx: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    scenes = {"root": folder / "scenes", "frames": 3, "min_frames": 3}
    report = qvggt.evaluate([model], engines=[small_onnx], **scenes)  # type: ignore[arg-type]
    frame = report.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 2
    saved = json.loads(report.save(tmp_path / "r.json").read_text())
    assert len(saved["candidates"]) == 2
    assert len(repr(report).splitlines()) < 12


def test_reconstruct_writes_a_scene(folder: Path, tmp_path: Path) -> None:
    photos = sorted((folder / "scenes" / "synthetic").glob("*/images"))[0]
    made = qvggt.reconstruct([photos], tmp_path / "r", model=folder / "float.safetensors", formats=("cameras",))
    assert made.passed
    assert (tmp_path / "r" / "cameras.json").is_file()


@pytest.mark.parametrize("name", JOBS)
def test_calls_have_the_signature_of_their_job(name: str) -> None:
    function = getattr(qvggt, name)
    parameters = inspect.signature(function).parameters
    assert "overwrite" in parameters
    assert all("Doc(" not in str(parameter) for parameter in parameters.values())
    doc = inspect.getdoc(function)
    assert doc is not None
    for parameter in parameters:
        assert f"    {parameter}: " in doc, "help lists what every parameter is"


def test_mistakes_are_one_line(model: qvggt.Model, images: torch.Tensor, tmp_path: Path) -> None:
    quantized = qvggt.quantize(model, "w8a8")
    for call, words in (
        (lambda: qvggt.load(tmp_path / "none"), "no such file"),
        (lambda: qvggt.quantize(model, "w3a3"), "unknown bits"),
        (lambda: qvggt.quantize(model, act="static"), "needs batches"),
        (lambda: qvggt.quantize(quantized), "quantized already"),
        (lambda: qvggt.quantize(model, act="static", batches=[images[0]]), r"image tensors \[S, 3, H, W\]"),
        (lambda: qvggt.quantize(model, act="static", batches=[images * float("inf")]), "NaN or infinity"),
        (lambda: qvggt.calibrate("tiny", tmp_path / "c", recipe="best"), "unknown recipe"),
        (lambda: qvggt.calibrate("tiny", tmp_path / "c"), "needs --data"),
        (lambda: qvggt.calibrate("tiny", tmp_path / "c", frames=0), "frames: expected 1 or more"),
        (lambda: qvggt.export_onnx(quantized, tmp_path / "m.onnx", target="gpu"), "target: expected one of"),
        (lambda: qvggt.export_onnx(quantized, tmp_path / "m.pb"), r"ending in \.onnx"),
        (lambda: qvggt.evaluate(), "nothing to evaluate"),
        (lambda: qvggt.load("tiny", revision="v1"), "revision"),
    ):
        with pytest.raises(qvggt.QvggtError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_import_works_beside_a_folder_of_that_name(tmp_path: Path) -> None:
    """As in the folder that holds the clone, whose own folder is no package."""
    (tmp_path / "qvggt" / "qvggt").mkdir(parents=True)
    code = "import qvggt, qvggt.calib; print(qvggt.__version__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == qvggt.__version__, done.stderr


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_sleep_unless_the_user_says_otherwise(given: str | None, expected: str) -> None:
    import os

    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    code = "import qvggt, os; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_mypy_knows_the_types(tmp_path: Path) -> None:
    """From the package as it installs, in strict mode: calls, results, and a wrong keyword."""
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(
        "import qvggt\n"
        'model = qvggt.load("tiny")\n'
        "reveal_type(model)\n"
        'made = qvggt.calibrate("tiny", "out", format="w4a4", data="scenes")\n'
        "reveal_type(made)\n"
        "reveal_type(made.model)\n"
        'reveal_type(qvggt.export_onnx(model, "m.onnx").passed)\n'
        'with qvggt.open_runner("m.onnx") as runner:\n'
        "    reveal_type(runner)\n"
        'qvggt.build("m.onnx", "m.engine", backend="gpu")\n'
    )
    sys.path.insert(0, str(ROOT / "tools"))
    from typecheck import STAGE, stage

    stage()
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)],
        env={**__import__("os").environ, "MYPYPATH": str(STAGE)},
        cwd=STAGE,
        capture_output=True,
        text=True,
        check=False,
    )
    for line, words in (
        (3, 'Revealed type is "qvggt.quant.handle.Model"'),
        (5, 'Revealed type is "qvggt.jobs.calibrate.Calibrated"'),
        (6, 'Revealed type is "qvggt.quant.handle.Model"'),
        (7, 'Revealed type is "bool"'),
        (9, 'Revealed type is "qvggt.engines.runner.Runner"'),
        (10, 'Argument "backend"'),
    ):
        assert any(f"program.py:{line}:" in text and words in text for text in done.stdout.splitlines()), done.stdout
