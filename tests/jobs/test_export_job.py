"""An export from Python and from a stored job is the command's; rounding to nearest on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from calling import call, mistake
from small_network import SIZE, small_batches, small_images, small_rounded

from qvggt.errors import QvggtError
from qvggt.hub.loading import load
from qvggt.jobs import rounding
from qvggt.jobs.export import ExportJob
from qvggt.jobs.gate import Gate, run_gate
from qvggt.jobs.job import read_job
from qvggt.jobs.rounding import round_to_nearest
from qvggt.onnx_view.halves import heads_path
from qvggt.progress import Console
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.handle import Model
from qvggt.quant.scheme import parse_scheme

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ("--parity-sequences", 2, "--parity-frames", "1,3")


def weights(model: Model) -> torch.Tensor:
    return model.network.get_submodule("aggregator.frame_blocks.0.mlp.fc2").weight


def measured(report: dict[str, Any]) -> list[tuple[object, ...]]:
    """What was compared; figures differ by float noise where the weights lie elsewhere in memory."""
    layers = [(p["path"], p["tokens"]) for p in (*report["linears"], *report["convolutions"])]
    return [*layers, *((p["name"], p["frames"]) for p in report["outputs"]), *((name,) for name in report["auc30"])]


def test_a_program_exports_as_the_command_does(
    small_float: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Float weights in memory are rounded in a copy; the file and its parity are those of the command."""
    line = (small_float, "--bits", "w4a4", *QUICK, "-o", tmp_path / "a.onnx")
    assert call("export", *line, "--threads", 1, "--json", tmp_path / "a.json") == 0
    capsys.readouterr()
    model = load(small_float)
    before = weights(model).clone()
    done = ExportJob(
        model, tmp_path / "b.onnx", format="w4a4", parity_sequences=2, parity_frames=(1, 3), threads=1
    ).run()
    assert torch.equal(weights(model), before)
    assert model.scheme is None
    assert capsys.readouterr().out == ""
    assert done.passed
    assert done.path.read_bytes() == (tmp_path / "a.onnx").read_bytes()
    written = json.loads((tmp_path / "a.json").read_text())
    stored = json.loads((tmp_path / "b.onnx.parity.json").read_text())
    assert measured(written["parity"]) == measured(stored) == measured(done.to_dict()["parity"])
    assert {found[0] for found in measured(stored)} >= {"aggregator.frame_blocks.0.mlp.fc2", "depth", "onnx"}
    assert (written["path"], written["passed"], written["lint"]["errors"]) == (str(tmp_path / "a.onnx"), True, 0)
    assert written["parity"]["threads"] == 1
    assert len(repr(done)) < 500


def test_a_quantized_model_in_memory_is_exported_as_it_is(
    small_float: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(small_float)
    quantized = round_to_nearest(model, parse_scheme("w4a8"))
    monkeypatch.setattr(rounding, "round_to_nearest", None)
    done = ExportJob(quantized, tmp_path / "m.onnx", parity=False).run()
    assert (done.scheme, done.parity, done.passed) == ("w4a8-dynamic", None, True)
    with pytest.raises(QvggtError, match="JSON cannot hold"):
        ExportJob(quantized, tmp_path / "m.onnx").to_dict()


def test_rounding_to_nearest(small_float: Path) -> None:
    model = load(small_float)
    static = parse_scheme("w8a8", "static")
    images = small_images(2)
    done = round_to_nearest(model, static, [images], seed=3)
    assert model.scheme is None
    assert done.provenance.source == {"name": model.name, "sha256": model.sha256}
    assert done.provenance.calibration["recipe"]["name"] == "rtn"
    assert done.provenance.calibration["seed"] == 3
    assert done.provenance.calibration["threads"] == 1
    assert done.layers["aggregator.frame_blocks.0.mlp.fc2"]["input_amax"] > 0
    for call_, words in (
        (lambda: round_to_nearest(done, static, [images]), "quantized already"),
        (lambda: round_to_nearest(model, static), "need"),
        (lambda: round_to_nearest(model, static, [images[0]]), r"image tensors \[S, 3, H, W\]"),
        (lambda: round_to_nearest(model, static, [images * float("nan")]), "NaN or infinity"),
    ):
        before = weights(model).clone()
        with pytest.raises(QvggtError, match=words):
            call_()
        assert torch.equal(weights(model), before)
    again = round_to_nearest(model, parse_scheme("w8a8"), in_place=True)
    assert again.network is model.network


def test_two_files_are_proven_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Convolutions of the heads are quantized too; a weight that is another one in the second file is found."""
    scheme = parse_scheme("w8a8", parts=("aggregator", "dpt"))
    folder, out = tmp_path / "w8a8", tmp_path / "m.onnx"
    with torch.no_grad():
        save_calibrated(folder, small_rounded(scheme, small_batches(2)), scheme, Provenance())
    line = ("export", folder, "--split-heads", "--parity-sequences", 0, "--parity-frames", "9", "-o", out)
    assert call(*line, "--json", tmp_path / "a.json") == 0
    printed = capsys.readouterr().out
    assert f"{out} and {heads_path(out)}: w8a8-dynamic" in printed
    assert "32/32 quantized linears agree" in printed
    assert "60/60 quantized convolutions agree" in printed, printed
    assert json.loads((tmp_path / "a.json").read_text())["heads"] == str(heads_path(out))
    assert "m.onnx: exists already" in mistake(capsys, *line)
    out.rename(tmp_path / "kept")
    assert "m.heads.onnx: exists already" in mistake(capsys, *line)
    (tmp_path / "kept").rename(out)
    model = onnx.load(heads_path(out))
    weight = next(t for t in model.graph.initializer if t.name == "depth_head.scratch.output_conv2.2.bias")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 1, weight.name))
    onnx.save(model, heads_path(out))
    gate = Gate(out, tmp_path / "p.json", SIZE, SIZE, (1,), None, sequences=0, seed=0)
    parity = run_gate(gate, load_calibrated(folder).model, scheme, Console())
    segment = "depth_head.scratch.output_conv2.2"
    assert [failure.split()[0] for failure in parity.failures] == [segment, "depth", "depth_conf"]


def test_a_stored_export_is_the_same_export(tmp_path: Path) -> None:
    job = ExportJob("tiny", tmp_path / "m.onnx", frames=(2, 3, 4), outputs=("pose",), overrides=(("x.*", "w4a16"),))
    assert read_job(job.save(tmp_path / "job.json")) == job
    config = ("--config", tmp_path / "job.json", "--save-config", tmp_path / "again.json")
    assert call("export", *config, "--bits", "w4a4", "--no-check", "--parity-frames", "1,4", "--size", "28x56") == 0
    again = replace(job, format="w4a4", parity=False, parity_frames=(1, 4), size=(28, 56))
    assert read_job(tmp_path / "again.json") == again


def test_json_alone_goes_to_stdout(small_float: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ("export", small_float, "-o", tmp_path / "m.onnx", "--no-check", "--json", "-")
    assert call(*line) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["bytes"] == (tmp_path / "m.onnx").stat().st_size
    assert "parity: not measured" in captured.err


def test_an_existing_file_is_replaced_when_asked_alone(
    small_float: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its parity report goes with it; a report of another name is an output of its own."""
    out, report = tmp_path / "m.onnx", tmp_path / "p.json"
    for path in (out, report):
        path.write_text("mine")
    line = ("export", small_float, "--parity-sequences", 0, "--parity-frames", 1, "-o")
    assert "m.onnx: exists already" in mistake(capsys, *line, out)
    assert "p.json: exists already" in mistake(capsys, *line, tmp_path / "n.onnx", "--report", report)
    assert (out.read_text(), report.read_text()) == ("mine", "mine")
    (tmp_path / "m.onnx.parity.json").write_text("old")
    assert call(*line, out, "--overwrite") == 0
    assert json.loads((tmp_path / "m.onnx.parity.json").read_text())["passed"] is True
    assert call(*line, out, "--overwrite", "--no-check") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "p.json"]
