"""The proof for GPUs where there is none: every section in small, and every way a figure can end."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import gpu_bundle
import gpu_figures
import gpu_proof
import pytest
import results_tables
import torch
from gpu_lab import Form, Lab, agreement, forms_of
from gpu_proof import Figure, Setting, Worker, figures, prove, table
from measuring import peak_bytes, seconds_within
from meta_device import MetaDevice
from small_network import SIZE

from qvggt.calib import plan
from qvggt.calib.machine import Machine
from qvggt.calib.plan import Outline
from qvggt.calib.reconstruct import calibrate_block
from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.errors import QvggtError
from qvggt.export.emulation import rounding
from qvggt.export.precision import Precision
from qvggt.hub.loading import load
from qvggt.jobs.calibrate import CalibrateJob
from qvggt.jobs.scenes import ScenesJob
from qvggt.models.family import LINEARS
from qvggt.predictions import OUTPUTS

pytestmark = pytest.mark.usefixtures("one_thread")
MACHINE = {"card": "GPU 1", "capability": "8.9", "memory_bytes": 24e9, "driver": "580.1", "cuda": "13.0"}
MACHINE |= {"python": "3.12.3", "versions": {"torch": "2.11.0"}}


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(gpu_figures, "SCENES", 1)
    monkeypatch.setattr(gpu_figures, "_wait", lambda device: None)
    return Setting("cpu", True, str(tmp_path / "checkpoints"), str(tmp_path / "files"), 0.0)


# figures


def test_a_block_is_calibrated_and_extrapolated(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def calibrated(*args: Any) -> None:
        given = inspect.signature(calibrate_block).bind(*args).arguments
        assert given["block"].attn.qkv.weight.device.type == "cpu"
        assert (given["stage"].group, set(given["formats"])) == ("frame", set(LINEARS))
        assert given["recipe"].bf16
        assert given["goals"].shapes == given["source"].shapes
        count, recipe = len(given["source"].tokens), given["recipe"]
        clock[0] += 10 + 2 * count + count * recipe.epochs

    monkeypatch.setattr(gpu_figures, "calibrate_block", calibrated)
    monkeypatch.setattr(gpu_figures.time, "perf_counter", lambda: clock[0])
    row = gpu_figures.calibration(setting, "frame", 1, True)
    assert row["seconds"] == {"1 sequence": 12, "3": 16, "3, one epoch": 19}
    assert row["block_s"] == 10 + 64 * 2
    assert row["blocks"] == 3  # that of the patch encoder too, which sees frame by frame
    assert row["hours"] == pytest.approx(3 * 138 / 3600)


def test_the_plan_of_the_card_stands_beside_it(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(outline: Outline, machine: Machine, progress: bool) -> SimpleNamespace:
        assert (outline.sequences, outline.frames, machine.title[:4]) == (64, 2, "H100")
        return SimpleNamespace(seconds={"frame": (2.0, 6.0)}, total_seconds=(3600.0, 7200.0))

    monkeypatch.setattr(plan, "make_plan", made)
    assert gpu_figures.planned(setting, 2)["said"] == "h100: frame block 2 to 6 s; 1.0 to 2.0 h in all"
    monkeypatch.setattr(gpu_figures.torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    with pytest.raises(QvggtError, match="NVIDIA L4: qvggt calibrate --plan-device has no data sheet"):
        gpu_figures.planned(dataclasses.replace(setting, device="cuda", small=False), 2)


def test_int8_products_are_those_of_the_codes(setting: Setting) -> None:
    row = gpu_figures.int8_products(setting, 1)
    assert row["tokens"] == 21
    assert row["ratio"] == pytest.approx(row["block_s"]["bf16"] / row["block_s"]["int8"])
    assert set(row["linears"]) == {"qkv", "proj", "fc1", "fc2"}


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fake quant"])
def test_the_network_is_timed(setting: Setting, kind: str) -> None:
    row = gpu_figures.baseline(setting, kind, 2)
    assert row["calls"] == 3
    assert 0 < row["p50_s"] <= row["p99_s"]


def test_a_tiny_model_agrees_with_itself_and_a_missing_one_is_named(setting: Setting) -> None:
    row = gpu_figures.tiny(setting, "fp32")
    assert set(row["sqnr_db"].values()) == {3000.0}
    assert row["rotation_deg"] < 1e-4
    assert row["auc30"] == row["auc30_cpu"] > 50
    with pytest.raises(QvggtError, match="tiny-w8a8 is not there; make gpu-bundle writes it"):
        gpu_figures.tiny(setting, "w8a8")


class Engine(OnnxRunner):
    """Stands for an engine: its ONNX file on the CPU."""

    class gpu:
        stream = None

    def compute(self, frames: int) -> None: ...

    @classmethod
    def open(cls, path: Path, device: str) -> Engine:
        return cls(path.with_name(f"{path.stem.rpartition('-')[0]}-tensorrt.onnx"))


def test_a_model_is_calibrated_on_both_sides(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load("tiny").network
    monkeypatch.setattr(gpu_figures, "tiny_calibrated", lambda device, bits, scenes: (network, 1.0))
    row = gpu_figures.calibrated_here(setting)
    assert row["same_bytes"]
    assert row["said"].startswith("w4a8: 1.0 s, on the CPU 1.0 s; the same bytes again; cameras 3000.0 dB")


def test_an_engine_is_judged_and_timed(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(lab: Lab, form: Form, backend: str, capabilities: tuple[str, ...]) -> Path:
        path = lab.folder / f"{form}-{backend}.engine"
        path.write_bytes(b"engine")
        return path

    monkeypatch.setattr(Lab, "engine", built)
    row = gpu_figures.engine(setting, "random-1b", "w8a8", "rtx")
    assert row["run"].startswith("not run: ")
    assert "so its origin is unknown" in row["said"]
    monkeypatch.setattr(gpu_figures, "EngineRunner", Engine.open)
    monkeypatch.setattr(gpu_figures, "device_bytes", lambda: 5)
    monkeypatch.setattr(gpu_figures, "stream_seconds", lambda launch, stream, calls, warm_up: [launch() or 0.5])
    monkeypatch.setattr(gpu_figures, "counts_of", lambda lab, model: (1,))
    row = gpu_figures.engine(setting, "random-1b", "w8a8", "rtx")
    assert row["parity"].startswith("parity ")
    assert set(row["sqnr_db"]) == {f"{name} 1" for name in OUTPUTS}
    assert set(row["by_frames"]) == {"1", "4", "10"}
    assert row["p50_s"] == 0.5
    gpu_figures.release()


def test_a_calibrated_checkpoint_is_judged_in_its_own_form(small_checkpoint: Path, tmp_path: Path) -> None:
    asked = [Form("fp16"), Form("w4a4"), Form("bf16", precision="bf16")]
    assert forms_of("tiny", asked) == asked
    own = forms_of(str(small_checkpoint), [Form("fp32", precision="fp32")])
    assert own == [Form("w8a8", precision="fp32")]
    lab = Lab(str(small_checkpoint), tmp_path)
    exported = lab.exported(own[0])
    with OnnxRunner(exported.path) as runner:
        found = agreement(runner.run_named, exported, lab, (1,), scenes=1)
    assert found, found.failures()


class Event:
    """Stands for torch.cuda.Event: a tick of 2 ms between records."""

    ticks = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = -1

    def record(self, stream: str) -> None:
        assert stream == "current stream of cuda:1"
        Event.ticks += 1
        self.at = Event.ticks

    def synchronize(self) -> None:
        assert self.at >= 0

    def elapsed_time(self, end: Event) -> float:
        return 2.0 * (end.at - self.at)


def test_a_gpu_is_timed_by_events_and_its_memory_by_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, cuda = list[str](), gpu_figures.torch.cuda
    monkeypatch.setattr(cuda, "Event", Event)
    monkeypatch.setattr(cuda, "current_stream", lambda device: f"current stream of {device}")
    for name, value in {"memory_allocated": 5, "max_memory_allocated": 12}.items():
        monkeypatch.setattr(cuda, name, lambda device, value=value: value)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(cuda, name, lambda device, name=name: calls.append(name))
    with peak_bytes("cuda:1") as memory:
        assert seconds_within(0.02, lambda: calls.append("launch"), "cuda:1") == [0.002] * 10
    assert memory == {"peak_bytes": 12, "added_bytes": 7}
    assert calls == ["synchronize", "reset_peak_memory_stats", *["launch"] * 12, "synchronize"]


def test_the_card_is_described(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = gpu_figures.torch.cuda
    card = SimpleNamespace(name="GPU 1", major=8, minor=9, total_memory=24, multi_processor_count=128)
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    monkeypatch.setattr(cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(gpu_figures.shutil, "which", lambda tool: None)
    found = gpu_figures.machine(dataclasses.replace(setting, device="cuda:1"))
    assert (found["card"], found["capability"], found["driver"]) == ("GPU 1", "8.9", "unknown")
    monkeypatch.setattr(cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(QvggtError, match="TensorRT-RTX has no kernels for compute capability 9"):
        gpu_figures.engine(dataclasses.replace(setting, device="cuda:1"), "tiny", "w4a8", "rtx")


def test_fake_quant_mixes_no_devices(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, real = load(small_checkpoint).network.to("meta"), torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, **options: real("cpu", **options))  # there is none for meta
    with torch.no_grad(), MetaDevice(model) as device:
        outputs = model(torch.rand(2, 3, SIZE, SIZE).to("meta"))
        with rounding(model, Precision.FP16):
            model(torch.rand(2, 3, SIZE, SIZE).to("meta"))
    assert {value.device.type for value in outputs.values()} == {"meta"}
    assert device.peak > 0


# how figures end


def fine(setting: Setting, said: str = "well", **_: str) -> dict[str, Any]:
    return {"p50_s": 0.002, "said": said}


def fails(setting: Setting, error: Exception) -> NoReturn:
    raise error


def dies(setting: Setting) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(setting: Setting) -> None:
    time.sleep(60)


def process(setting: Setting) -> dict[str, Any]:
    return {"said": str(os.getpid())}


def test_every_figure_ends_and_the_next_one_runs(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_proof, "LEAST", 0.3)
    monkeypatch.setattr(gpu_figures, "release", lambda: None)
    monkeypatch.setattr(gpu_figures, "empty", lambda: None)
    wrong = {
        "refused": QvggtError("needs another GPU"),
        "memory": RuntimeError("CUDA out of memory. Tried to allocate"),
        "broken": RuntimeError("CUDA error: an illegal memory access"),
    }
    todo = [
        Figure("a", "first", process),
        *(Figure("a", name, fails, {"error": error}) for name, error in wrong.items()),
        Figure("a", "after", process),
        Figure("b", "dies", dies),
        Figure("b", "sleeps", sleeps, estimate=0.05),
        Figure("b", "long", fine, estimate=100),
        Figure("b", "known", fails, {"error": KeyError()}),
        Figure("b", "last", fine),
    ]
    report: dict[str, Any] = {"rows": [{"section": "b", "name": "known", "said": "before"}]}
    saved: list[str] = []
    worker = Worker(gpu_proof.multiprocessing.get_context("fork"))
    prove(todo, setting, report, 30, lambda r: saved.append(json.dumps(r)), worker)
    worker.close()
    found = {row["name"]: row.get("not_run") or row["said"] for row in report["rows"]}
    assert found["refused"] == "needs another GPU"
    assert found["memory"].startswith("out of memory (CUDA out of memory")
    assert found["broken"].startswith("RuntimeError: CUDA error")
    assert found["after"] != found["first"]  # another process, as the error broke the first one's GPU context
    assert found["dies"] == "its process ended with signal SIGKILL; out of memory?"
    assert found["sleeps"] == "took longer than 0 s and was stopped"
    assert found["long"].startswith("takes about 100 s, ")
    assert (found["known"], found["last"]) == ("before", "well")
    assert len(saved) == len(todo) - 1
    first = json.loads(saved[0])["rows"]
    assert len(first) == len(todo)
    assert first[-1]["not_run"] == "the run ended before it"
    assert "b long: not run: takes about 100 s" in capsys.readouterr().out


def test_the_budget_is_a_hard_end(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    report: dict[str, Any] = {"rows": []}
    worker = Worker(gpu_proof.multiprocessing.get_context("fork"))
    began = time.monotonic()
    prove([Figure("a", "sleeps", sleeps, estimate=0)], setting, report, gpu_proof.RESERVE + 0.5, lambda r: None, worker)
    assert time.monotonic() - began < 5
    assert report["rows"][0]["not_run"] == "took longer than 0 s and was stopped"


def run(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "r.json"
    more = {"only": "int8", **changes}
    gpu_proof.main(device="cpu", small=True, seconds=0, checkpoints=tmp_path, output=path, **more)
    return path


def test_a_dry_run_says_that_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_proof, "START", "fork")
    report = json.loads(run(tmp_path).read_text())
    assert report["dry_run"] == "on cpu, with a small network: no figures of VGGT-1B on a GPU"
    assert [row["name"] for row in report["rows"]] == ["1 frame", "2 frames"]
    assert "2 of 2 figures" in capsys.readouterr().out
    monkeypatch.setattr(gpu_figures, "int8_products", fails)
    assert json.loads(run(tmp_path, keep=True).read_text())["rows"] == report["rows"]
    monkeypatch.setattr(gpu_figures, "tiny", fine)
    monkeypatch.setattr(gpu_figures, "calibrated_here", fine)
    both = json.loads(run(tmp_path, keep=True, only="tiny").read_text())["rows"]
    assert both[:2] == report["rows"]  # what was there and was not asked for stays, too
    assert {row["section"] for row in both[2:]} == {"tiny"}
    report["machine"] = MACHINE
    (tmp_path / "r.json").write_text(json.dumps(report))
    with pytest.raises(QvggtError, match="is of another machine or other versions"):
        run(tmp_path, keep=True)


def test_figures_of_a_gpu_go_to_the_docs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(worker: Worker, figure: Figure, setting: Setting, seconds: float) -> dict[str, Any]:
        return dict(MACHINE) if not figure.section else {"said": "well"}

    checks: list[bool] = []
    monkeypatch.setattr(Worker, "ask", asked)
    monkeypatch.setattr(gpu_proof, "RESULT", tmp_path / "gpu.json")
    monkeypatch.setattr(results_tables, "main", lambda check: checks.append(check))
    gpu_proof.main(only="pytorch", budget=5)
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["machine"] == MACHINE
    assert "dry_run" not in report
    assert "| pytorch | bf16, 20 frames | - | - | - | well |" in capsys.readouterr().out
    assert checks == [False]


def test_without_a_gpu_it_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_proof, "START", "fork")
    monkeypatch.setattr(gpu_figures.torch.cuda, "is_available", lambda: False)
    with pytest.raises(QvggtError, match=r"sees no NVIDIA GPU.*; needs one"):
        gpu_proof.main(output=tmp_path / "r.json")
    with pytest.raises(QvggtError, match="--device cpu: needs --small"):
        gpu_proof.main(device="cpu")
    with pytest.raises(QvggtError, match="holds figures of GPUs alone"):
        gpu_proof.main(device="cpu", small=True, output=gpu_proof.RESULT)
    with pytest.raises(QvggtError, match="--only speed: expected some of calibration, int8"):
        gpu_proof.main(only="speed")
    assert not (tmp_path / "r.json").exists()


def test_what_is_run_and_in_which_order() -> None:
    whole = figures(False, ["rtx", "tensorrt"])
    assert tuple(dict.fromkeys(one.section for one in whole)) == gpu_proof.SECTIONS
    assert len({(one.section, one.name) for one in whole}) == len(whole) == 5 + 2 + 15 + 7 + 16
    (none,) = [one for one in figures(False, []) if one.section == "engines"]
    with pytest.raises(QvggtError, match="neither tensorrt_rtx nor tensorrt is installed"):
        gpu_proof.function(none.function)(None)


def test_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        {"section": "int8", "name": "1 frame", "p50_s": 0.0015, "p99_s": 0.002, "peak_bytes": 2.5e9, "said": "fast"},
        {"section": "engines", "name": "all", "not_run": "no GPU"},
    ]
    text = table({"machine": MACHINE, "created": "2026-11-28", "rows": rows})
    assert text.startswith(
        "GPU 1 (24 GB, compute capability 8.9), driver 580.1, CUDA 13.0, Python 3.12.3, torch 2.11.0;"
    )
    assert "| int8 | 1 frame | 1.50 | 2.00 | 2.50 | fast |" in text
    assert "| engines | all | - | - | - | not run: no GPU |" in text
    monkeypatch.setattr(results_tables, "RESULTS", tmp_path)
    assert results_tables.gpu().startswith("*Not run*")


def test_a_bundle_says_how_it_is_used_and_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    monkeypatch.setattr(gpu_bundle, "wheels", lambda folder: (folder / "q.whl").write_bytes(b"wheel"))
    monkeypatch.setattr(CalibrateJob, "run", lambda job, console: made.append(f"{job.format} {job.sequences}"))
    monkeypatch.setattr(ScenesJob, "run", lambda job, console: Path(job.out).mkdir())
    monkeypatch.setattr(gpu_bundle, "_clone_bytes", lambda: 100)
    (tmp_path / "checkpoints" / "tiny-w8a8").mkdir(parents=True)  # is there already
    gpu_bundle.main(tmp_path, formats="w8a8,w4a8", scenes=2)
    assert made == ["w4a8 2"]
    assert not (tmp_path / "scenes").exists()
    facts = json.loads((tmp_path / "bundle.json").read_text())
    assert set(facts["files"]) == {"README.txt", "wheels/q.whl"}
    assert f"{tmp_path}/wheels/*.whl" in capsys.readouterr().out
    monkeypatch.setattr(gpu_bundle, "_clone_bytes", lambda: 64 << 20)
    with pytest.raises(QvggtError, match=r"67\.1 MB with the clone, expected at most 67\.1; delete one of"):
        gpu_bundle.main(tmp_path, formats="w8a8")
