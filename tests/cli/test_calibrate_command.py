"""The calibrate job: from JSON and Python, its result, the thread count, and mistakes that cost nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import call, interrupted, light_calls, mistake
from small_network import SIZE, small_model, small_scenes

from qvggt.data.image_set import ImageSet
from qvggt.data.reading import read_pool
from qvggt.data.registry import Question
from qvggt.errors import QvggtError
from qvggt.jobs.calibrate import CalibrateJob
from qvggt.jobs.job import read_job
from qvggt.quant.checkpoint import load_calibrated
from qvggt.quant.handle import Model

RTN = ("--recipe", "rtn")
QUICK = ("--recipe", "smoothquant", "--frames", 2, "--sequences", 2)


@pytest.fixture(scope="module")
def inputs(small_float: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float checkpoint and scenes of 2 frames."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(small_float, folder)
    small_scenes(folder / "scenes", 2, range(2), range(90, 91))
    return folder


def test_a_job_is_written_and_read(inputs: Path, tmp_path: Path) -> None:
    job = CalibrateJob(
        "tiny",
        tmp_path / "c",
        format="w4a4",
        data=str(inputs / "scenes"),
        budget=0.005,
        budget_by="block",
        size=(28, 42),
        parts=("dpt", "camera"),
        epochs=0,
        memory=1,
        threads=2,
    )
    assert read_job(job.save(tmp_path / "job.json")) == job
    other = CalibrateJob("tiny", "c", recipe="rtn", overrides=(("camera_head.*", "w4a16"),))
    assert read_job(other.save(tmp_path / "other.json")) == other


def test_a_calibration_file_is_as_good_as_its_images(inputs: Path, tmp_path: Path) -> None:
    """The same pixels in QuantVGGT's calib_data.pt and in a folder: the same checkpoint."""
    pool = read_pool(Question(inputs / "scenes", "train", frames=2)).sequences
    images = ImageSet(pool, SIZE, SIZE)
    entries = [
        {"images": batch, "category": sequence.category, "seq_name": sequence.name}
        for sequence, batch in zip(pool, images, strict=True)
    ]
    torch.save(entries, tmp_path / "calib_data.pt")
    for name, data in (("folder", inputs / "scenes"), ("file", tmp_path / "calib_data.pt")):
        line = (inputs / "float.safetensors", "--bits", "w8a8", *QUICK, "--data", data, "-o", tmp_path / name)
        assert call("calibrate", *line) == 0
    files = (tmp_path / name / "model.safetensors" for name in ("folder", "file"))
    assert len({file.read_bytes() for file in files}) == 1


def test_config_with_an_option_on_top(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json - gives JSON alone on stdout."""
    line = (inputs / "float.safetensors", *RTN, "--bits", "w4a4", "-o", tmp_path / "c")
    assert call("calibrate", *line, "--save-config", tmp_path / "job.json") == 0
    assert not (tmp_path / "c").exists()
    capsys.readouterr()
    assert call("calibrate", "--config", tmp_path / "job.json", "--bits", "w8a8", "--json", "-") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["scheme"] == "w8a8-dynamic"
    assert found["recipe"] == "rtn"
    assert found["passed"] is True
    assert len(found["layers"]) == 36
    assert {"path", "weight_sqnr_db"} <= found["layers"][0].keys()
    assert "quant.json has the per-layer table" in captured.err
    assert "exists already" in mistake(capsys, "calibrate", "--config", tmp_path / "job.json")
    assert call("calibrate", "--config", tmp_path / "job.json", "--overwrite", "-q", "-o", tmp_path / "d") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert call("calibrate", "--config", tmp_path / "job.json", "--overwrite", "-v") == 0
    assert len(capsys.readouterr().out.splitlines()) > 36


def test_a_plan_is_a_result(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the sequences there are, with the heads; of this machine, or of one by its data sheet."""
    line = (inputs / "float.safetensors", *QUICK, "--data", inputs / "scenes", "--plan", "-o", tmp_path / "c")
    assert call("calibrate", *line, "--json", "-") == 0
    captured = capsys.readouterr()
    assert "2 sequences of 2 frames, 56x56, recipe smoothquant" in captured.err
    assert "time on this machine: " in captured.err
    assert "\nmemory: " in captured.err
    found = json.loads(captured.out)
    low, high = found["plan"]["total_seconds"]
    assert 0 < low < high
    assert found["plan"]["blocks"].keys() == found["plan"]["seconds"].keys()
    assert found["plan"]["model"] == sum(tensor.nbytes for tensor in small_model().state_dict().values())
    assert 10**7 < found["plan"]["libraries"] < 10**10
    assert list(tmp_path.iterdir()) == []
    rtn = {"recipe": "rtn", "format": "w8a8"}
    job = CalibrateJob(inputs / "float.safetensors", tmp_path / "c", plan=True, plan_device="orin", **rtn)
    done = job.run()
    assert done.plan is not None
    assert done.plan.machine == "Jetson AGX Orin 64 GB"
    with pytest.raises(QvggtError, match="planned and not calibrated"):
        print(done.model)


def test_a_model_in_memory_is_left_alone(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The result holds the quantized network, the same as the file has, and nothing is printed."""
    network = small_model()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model = Model(network, "mine", "0" * 64)
    result = CalibrateJob(
        model, tmp_path / "a", format="w4a4", recipe="quarot", data=inputs / "scenes", sequences=2, frames=2
    ).run()
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    saved = load_calibrated(tmp_path / "a")
    assert saved.provenance.source == {"name": "mine", "sha256": "0" * 64}
    assert result.scheme == saved.scheme == result.model.scheme
    for name, tensor in saved.model.state_dict().items():
        assert torch.equal(result.model.network.state_dict()[name], tensor)
    assert capsys.readouterr().out == ""
    assert len(repr(result)) < 250
    line = (inputs / "float.safetensors", "--bits", "w4a4", "--recipe", "quarot", "--data", inputs / "scenes")
    assert call("calibrate", *line, "--sequences", 2, "--frames", 2, "-o", tmp_path / "b") == 0
    assert load_calibrated(tmp_path / "b").sha256 == saved.sha256
    with pytest.raises(QvggtError, match="model in memory"):
        CalibrateJob(model, tmp_path / "c", recipe="rtn").save(tmp_path / "job.json")


def test_a_missed_budget_ends_with_one(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search measures the quick form; the calibrated model may drop by more."""
    from qvggt.calib import calibrate as driver
    from qvggt.jobs import budget

    real, drops = driver.calibrate_, {"calibrated": 0.1, "now": 0.01}

    def calibrated(*args: Any, **options: Any) -> Any:
        if options.get("journal") is not None:  # the search itself keeps no blocks
            drops["now"] = drops["calibrated"]
        return real(*args, **options)

    monkeypatch.setattr(driver, "calibrate_", calibrated)
    monkeypatch.setattr(budget, "make_metric", lambda *_: budget.Metric("drops", None, 2, lambda _: drops["now"]))
    line = (inputs / "float.safetensors", *QUICK, "--bits", "w4a4", "--parts", "camera", "--data", inputs / "scenes")
    line = (*line, "-o", tmp_path / "c", "--budget", "50%", "--json", tmp_path / "r.json", "--overwrite")
    assert call("calibrate", *line) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["drop"], found["limit"], found["passed"]) == (0.1, 0.5, True)
    assert found["notes"] == [str(tmp_path / "c" / "budget.json")]
    assert "budget: drop 10.00% of 50.00%" in capsys.readouterr().out
    drops |= {"calibrated": 0.9, "now": 0.01}
    assert call("calibrate", *line) == 1
    assert "budget MISSED: the calibrated checkpoint drops by 90.00%" in capsys.readouterr().err
    assert json.loads((tmp_path / "r.json").read_text())["passed"] is False


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = (inputs / "float.safetensors", *RTN, "-o", tmp_path / "c")
    for device in ("cuda", "cuda:1"):
        assert f"'{device}': PyTorch sees 0 CUDA devices" in mistake(capsys, "calibrate", *line, "--device", device)
    assert "cuda:N" in mistake(capsys, "calibrate", *line, "--device", "gpu")
    assert "--bf16" in mistake(capsys, "calibrate", *line, "--bf16")
    export = ("export", inputs / "float.safetensors", "-o", tmp_path / "x.onnx", "--device", "cuda")
    assert "PyTorch sees 0 CUDA devices" in mistake(capsys, *export)
    assert not (tmp_path / "x.onnx").exists()


def test_threads_are_recorded(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """And what another count has begun is not gone on with."""
    from qvggt.calib import calibrate as driver

    line = (inputs / "float.safetensors", *QUICK, "--bits", "w8a8", "--data", inputs / "scenes", "-o", tmp_path / "c")
    before, calls = torch.get_num_threads(), list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(driver, "calibrate_block", interrupted(driver.calibrate_block, calls, at=3))
        assert call("calibrate", *line, "--threads", 2) == 130
    assert f"kept {tmp_path / '.c.unfinished'}" in capsys.readouterr().err
    assert "unfinished" in mistake(capsys, "calibrate", *line, "--threads", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qvggt.device.label", lambda _device: "cuda (NVIDIA H200)")
        refused = mistake(capsys, "calibrate", *line, "--threads", 2)
    assert "(differs in device)" in refused or "NVIDIA H200" in refused
    assert "recipe" in mistake(capsys, "calibrate", *line, "--threads", 2, "--bf16")
    assert call("calibrate", *line, "--threads", 2) == 0
    assert "going on after 2 finished blocks" in capsys.readouterr().out
    done = load_calibrated(tmp_path / "c").provenance.calibration
    assert (done["threads"], done["device"]) == (2, "cpu")
    assert torch.get_num_threads() == before


MISTAKES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("--bits", "w3a3"), "w3a3"),
    (("--recipe", "magic"), "rtn, smoothquant"),
    (("--fc2", "dense"), "kronecker"),
    (("--parts", "eyes"), "eyes"),
    (("--override", "a=w3"), "w3"),
    (("--override", "w4a4"), "PATTERN=BITS"),
    (("--size", "big"), "HxW"),
    (("--budget", "x"), "0.5%"),
    (("--class-mode", "pears"), "pears"),
    (("--select", "--act", "static", "--sequences", "7"), "8 clusters"),
    (("--epochs", "-1"), "--epochs"),
    (("--adapt", "9"), "--adapt: --recipe rtn calibrates no blocks"),
    (("--recipe", "qvggt", "--data", ".", "--adapt", "9", "--attention", "fp8"), "gradients do not pass --attention"),
    (("--scheme", "nowhere.json"), "nowhere.json"),
    (("--data", "nowhere"), "nowhere: is not a folder"),
    (("--annotations", "nowhere"), "nowhere: is not a folder"),
    (("--import-quantvggt", "r"), "needs --bits"),
    (("--revision", "main"), "tiny: is local"),
    (("-o", "taken"), "taken: exists already"),
    (("--plan-device", "rtx4090"), "--plan-device belongs to --plan"),
    (("--plan", "--plan-device", "gtx1080"), "rtx3090, rtx4090"),
    (("--recipe", "qvggt"), "needs --data"),
    (("--attention", "int8"), "--attention int8: TensorRT fuses it up to 512 tokens only"),
    (("--attention", "fp4"), "int8"),
    (("--bits", "fp16", "--attention", "fp8"), "--bits fp16 quantizes no linear"),
    (("--scheme", "nowhere.json", "--attention", "fp8"), "--attention: --scheme nowhere.json says that already"),
)


def line_of(options: tuple[str, ...]) -> tuple[str, ...]:
    if "--import-quantvggt" in options:
        return ("calibrate", "tiny", "-o", "out", *options)
    data = () if "qvggt" in options else ("--data", ".")
    return ("calibrate", "tiny", "--recipe", "rtn", "-o", "out", *data, *options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "taken").mkdir()
    (folder / "taken" / "file").touch()
    return folder


@pytest.mark.parametrize(("options", "words"), MISTAKES)
def test_mistakes_are_found_without_a_heavy_import(options: tuple[str, ...], words: str, place: Path) -> None:
    code, out, err, loaded = light_calls(tuple(line_of(each) for each, _ in MISTAKES), place)[line_of(options)]
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not loaded & {"torch", "numpy", "onnx"}
    assert not (place / "out").exists()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("calibrate", "-h") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Seed of frames, rotations and batches. [default: 0;" in shown
    assert "goes on where it was when the same command is given again" in shown
