"""qvggt export and qvggt calibrate, from the command line to the files; a mistake is one line and exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from calling import call, interrupted, mistake
from small_network import small_pixels, small_scenes

import qvggt
from qvggt.quant.checkpoint import load_calibrated

Files = Callable[[], set[Path]]


@pytest.fixture(scope="module")
def inputs(small_float: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float checkpoint and scenes of 5 frames."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(small_float, folder)
    small_scenes(folder / "scenes", 5, range(3), range(50, 53))
    return folder


RTN = ("--recipe", "rtn")
QUICK = ("--parity-sequences", 2, "--parity-frames", "1,3")


def test_export_writes_a_checked_file_and_its_report(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.onnx"
    assert call("export", inputs / "float.safetensors", "--bits", "w4a4", "-o", out, *QUICK) == 0
    printed = capsys.readouterr().out
    assert "36/36 quantized linears agree" in printed
    assert "parity passed" in printed
    report = json.loads((tmp_path / "m.onnx.parity.json").read_text())
    assert report["passed"] is True
    assert report["scheme"]["bits"] == "w4a4"
    assert {o["frames"] for o in report["outputs"]} == {1, 3}
    assert set(report["auc30"]) == {"reference", "onnx", "delta"}
    metadata = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert json.loads(metadata["qvggt.source"])["name"].endswith("float.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.parity.json"]


def test_one_file_runs_with_any_frame_count(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    assert call("export", inputs / "float.safetensors", "-o", out, "--size", "28x56", "--no-check") == 0
    session = ort.InferenceSession(out)
    for frames in (1, 2, 5, 8):
        images = np.random.default_rng(0).random((1, frames, 3, 28, 56), dtype=np.float32)
        assert session.run(["depth"], {"images": images})[0].shape == (1, frames, 28, 56, 1)


def test_a_file_for_tensorrt_itself(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reference's numbers, 8-bit codes unless 4 are asked for, and what of that is not documented."""
    line = (inputs / "float.safetensors", "--target", "tensorrt", "--backend", "tensorrt", "--bits", "w4a4")
    line = (*line, "--outputs", "pose")
    quick = ("--parity-sequences", 0, "--parity-frames", 1)
    assert call("export", *line, "-o", tmp_path / "m.onnx", *quick) == 0
    printed = capsys.readouterr().out
    assert "lint: 0 errors and 0 warnings for tensorrt (10.12 or newer, not RTX)" in printed
    assert "parity passed" in printed
    assert call("export", *line, "--storage", "int4", "-o", tmp_path / "s.onnx", "--no-check") == 0
    assert "lint: 0 errors and 36 warnings" in capsys.readouterr().out
    codes = {}
    for name in ("m", "s"):
        tensors = onnx.load(tmp_path / f"{name}.onnx").graph.initializer
        codes[name] = {tensor.data_type for tensor in tensors if tensor.name.endswith("weight_codes")}
    assert codes == {"m": {onnx.TensorProto.INT8}, "s": {onnx.TensorProto.INT4}}


def test_nvfp4_from_calibration_to_a_runner(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Proven on floats that compute what the file's own codes and scales say; no CPU and no other TensorRT takes it."""
    folder, out = tmp_path / "nvfp4", tmp_path / "m.onnx"
    scenes = ("--data", inputs / "scenes", "--sequences", 1, "--frames", 2)
    model = (inputs / "float.safetensors", "--bits", "nvfp4")
    assert call("calibrate", *RTN, *model, *scenes, "-o", folder) == 0
    capsys.readouterr()
    quick = ("--parity-sequences", 0, "--parity-frames", "1,3", "--outputs", "pose,depth")
    assert call("export", folder, "--target", "tensorrt", "--cc", "12.0", "-o", out, *quick) == 0
    printed = capsys.readouterr().out
    assert "36/36 quantized linears agree" in printed
    assert "lint: 0 errors and 0 warnings" in printed
    assert "parity passed" in printed
    assert json.loads({p.key: p.value for p in onnx.load(out).metadata_props}["qvggt.scheme"])["bits"] == "nvfp4"
    with qvggt.open_runner(out, threads=1) as runner:
        assert runner.notes == ("ONNX Runtime has no FP4: written out in float operators, for the numbers alone",)
        assert np.isfinite(runner.run_named(small_pixels(3))["depth"]).all()
    err = mistake(capsys, "export", folder, "-o", tmp_path / "c.onnx")
    assert "nvfp4: no CPU runtime reads FP4; export it with --target tensorrt, or take --bits w4a8 for CPUs" in err
    err = mistake(capsys, "export", *model, "--target", "tensorrt", "--backend", "tensorrt", "-o", tmp_path / "c.onnx")
    assert "leave --backend out for TensorRT-RTX, or take --bits fp8" in err
    assert not (tmp_path / "c.onnx").exists()


def test_fp8_for_cpus_says_what_it_is(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = (inputs / "float.safetensors", "--bits", "fp8", "--no-check", "--outputs", "pose")
    assert call("export", *line, "-o", tmp_path / "m.onnx") == 0
    assert "note: no CPU runtime has FP8 kernels" in "".join(capsys.readouterr())
    assert call("export", *line, "--target", "tensorrt", "-o", tmp_path / "t.onnx") == 0
    assert "no CPU runtime" not in "".join(capsys.readouterr())


def test_fused_attention_is_checked_like_any_file(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.onnx"
    line = (inputs / "float.safetensors", "--fused-attention", "-o", out, *QUICK, "--overwrite")
    assert call("export", *line) == 0
    assert "parity passed" in capsys.readouterr().out
    assert "MultiHeadAttention" in {node.op_type for node in onnx.load(out).graph.node}
    err = mistake(capsys, "export", *line, "--target", "tensorrt")
    assert "fused attention" in err


def test_calibrate_then_export_a_static_checkpoint(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "w8a8"
    line = (inputs / "float.safetensors", "--bits", "w8a8", "--act", "static", "--data", inputs / "scenes")
    assert call("calibrate", *RTN, *line, "-o", folder, "--sequences", 2, "--frames", 2) == 0
    loaded = load_calibrated(folder)
    assert loaded.scheme.label == "w8a8-static"
    assert len(loaded.provenance.calibration["frames"]) == 2
    assert set(loaded.provenance.layers) == {p for p, _ in _linears(folder)}
    capsys.readouterr()
    assert call("export", folder, "-o", tmp_path / "m.onnx", "--data", inputs / "scenes", *QUICK) == 0
    assert "w8a8-static" in capsys.readouterr().out


def _linears(folder: Path) -> list[tuple[str, Any]]:
    from qvggt.quant.model import quantized_linears

    return list(quantized_linears(load_calibrated(folder).model))


def test_static_equals_dynamic_in_nothing_but_the_activations(inputs: Path, tmp_path: Path) -> None:
    line = (inputs / "float.safetensors", "--bits", "w4a4")
    assert call("calibrate", *RTN, *line, "-o", tmp_path / "dynamic") == 0
    static = ("--act", "static", "--data", inputs / "scenes", "--sequences", 1, "--frames", 2)
    assert call("calibrate", *RTN, *line, *static, "-o", tmp_path / "static") == 0
    for (_, a), (_, b) in zip(_linears(tmp_path / "dynamic"), _linears(tmp_path / "static"), strict=True):
        assert torch.equal(a.codes, b.codes)
        assert a.act_clip.tolist() == [1, 1]
        assert float(b.act_amax) > 0


def test_a_failed_gate_ends_with_one(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qvggt.export import parity
    from qvggt.formats.table import FORMATS, find_format
    from qvggt.jobs import gate

    monkeypatch.setitem(FORMATS, "w8a8-dynamic", replace(find_format("w8a8"), floor_db=500.0))
    monkeypatch.setattr(parity, "SELF_MARGIN_DB", -500.0)
    line = (inputs / "float.safetensors", "-o", tmp_path / "m.onnx", "--parity-sequences", 0, "--parity-frames", "2")
    assert call("export", *line) == 1
    captured = capsys.readouterr()
    assert "parity FAILED" in captured.out
    assert " dB < " in captured.err
    report = json.loads((tmp_path / "m.onnx.parity.json").read_text())
    assert report["passed"] is False
    assert len(report["failures"]) == 2
    monkeypatch.setattr(gate, "SHOWN", 1)
    assert call("export", *line, "--overwrite", "-v") == 1
    captured = capsys.readouterr()
    assert [stream.count("parity FAILED: ") for stream in (captured.err, captured.out)] == [1, 1]


def test_what_was_not_checked_is_said(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", inputs / "float.safetensors", "-o", tmp_path / "m.onnx", "--no-check") == 0
    assert "not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--bits", "w3a3"), ("w3a3", "w8a8, w4a8")),
        (("--act", "sometimes"), ("sometimes", "dynamic", "static")),
        (("--size", "57x56"), ("57", "multiple of the patch size 14", "56 and 70")),
        (("--size", "big"), ("big", "392x518")),
        (("--frames", "8:1:2"), ("8:1:2", "min <= opt <= max")),
        (("--frames", "none"), ("none", "1:8:32")),
        (("--outputs", "pose,tracks"), ("tracks", "pose, depth, points")),
        (("--outputs", ","), ("no output",)),
        (("--target", "tpu"), ("tpu", "'cpu', 'tensorrt'")),
        (("--backend", "tensorrt"), ("--backend tensorrt", "is for --target tensorrt, got cpu")),
        (
            ("--target", "tensorrt", "--backend", "trtexec", "--bits", "w4a16", "--block", "32"),
            ("of 32", "--block 128"),
        ),
        (("--parts", "dino,eyes"), ("eyes", "dino, aggregator, camera")),
        (("--bits", "fp16", "--precision", "bf16"), ("precision bf16", "bits fp16")),
        (("--precision", "int8"), ("int8", "'fp32', 'fp16', 'bf16'")),
        (("--override", "camera_head.trunk.*"), ("PATTERN=BITS", "w4a16")),
        (("--override", "camera.*=w4a16"), ("camera.*", "matches no linear")),
        (("--override", "camera_head.*=w3a3"), ("w3a3", "w8a8, w4a8")),
        (("--bits", "w8a8", "--act", "static"), ("--calib",)),
        (("--revision", "abc"), ("revision",)),
        (("--parity-frames", "0"), ("--parity-frames", "1,2,5,8")),
        (("--parity-frames", ","), ("--parity-frames", "1,2,5,8")),
        (("--fused-attention", "--bits", "bf16"), ("fused attention", "bf16")),
        (("--data", "no-such-folder"), ("no-such-folder", "Co3D")),
        (("--calib", "no-such-folder"), ("no-such-folder", "Co3D")),
        (("--no-such-option",), ("--no-such-option",)),
    ],
)
def test_mistakes_in_the_call(
    options: tuple[str, ...],
    words: tuple[str, ...],
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = mistake(capsys, "export", inputs / "float.safetensors", "-o", tmp_path / "m.onnx", *options)
    assert all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_the_model(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "in" / "broken.safetensors"
    broken.parent.mkdir()
    broken.write_bytes((inputs / "float.safetensors").read_bytes()[:5000])
    out = tmp_path / "out"
    assert "broken.safetensors" in mistake(capsys, "export", broken, "-o", out / "m.onnx")
    missing = tmp_path / "in" / "missing.safetensors"
    assert "missing.safetensors" in mistake(capsys, "export", missing, "-o", out / "m.onnx")
    assert "broken.safetensors" in mistake(capsys, "calibrate", *RTN, broken, "-o", out / "ckpt")
    (tmp_path / "in" / "ckpt").mkdir()
    (tmp_path / "in" / "ckpt" / "quant.json").write_text("{")
    assert "quant.json" in mistake(capsys, "export", tmp_path / "in" / "ckpt", "-o", out / "m.onnx")
    assert not out.exists()


def test_mistakes_in_the_place(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    float_model = inputs / "float.safetensors"
    assert ".onnx" in mistake(capsys, "export", float_model, "-o", tmp_path / "m.bin")
    (tmp_path / "file").write_text("mine")
    assert "file" in mistake(capsys, "export", float_model, "-o", tmp_path / "file" / "m.onnx")
    assert "file" in mistake(capsys, "calibrate", *RTN, float_model, "-o", tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert "--overwrite" in mistake(capsys, "calibrate", *RTN, float_model, "-o", tmp_path / "mine")
    assert "quant.json" in mistake(capsys, "calibrate", *RTN, float_model, "-o", tmp_path / "mine", "--overwrite")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert (tmp_path / "file").read_text() == "mine"


def test_mistakes_in_the_data(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    float_model, out = inputs / "float.safetensors", tmp_path / "out" / "ckpt"
    static = (float_model, "--act", "static", "-o", out)
    assert "--data" in mistake(capsys, "calibrate", *RTN, *static)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "annotations" in mistake(capsys, "calibrate", *RTN, *static, "--data", empty)
    assert "frames" in mistake(capsys, "calibrate", *RTN, *static, "--data", inputs / "scenes", "--frames", 9)
    import shutil

    shutil.copytree(inputs / "scenes", tmp_path / "scenes")
    for image in (tmp_path / "scenes").rglob("*.jpg"):
        image.write_bytes(b"not a picture")
    assert ".jpg" in mistake(capsys, "calibrate", *RTN, *static, "--data", tmp_path / "scenes")
    assert not out.parent.exists()


RECIPE = ("--sequences", 2, "--frames", 2, "--epochs", 1)


def test_calibrate_with_our_recipe(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folds, learns, rounds; the file it exports to passes the gate; the same call gives the same bytes."""
    line = (inputs / "float.safetensors", "--bits", "w4a4", "--data", inputs / "scenes", *RECIPE)
    assert call("calibrate", *line, "-o", tmp_path / "a") == 0
    assert call("calibrate", *line, "-o", tmp_path / "b") == 0
    assert load_calibrated(tmp_path / "a").sha256 == load_calibrated(tmp_path / "b").sha256
    loaded = load_calibrated(tmp_path / "a")
    assert loaded.provenance.calibration["recipe"]["name"] == "qvggt"
    assert len(loaded.provenance.layers) == 9 + 36  # blocks, and what their linears spend
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    assert call("export", tmp_path / "a", "-o", tmp_path / "m.onnx", *QUICK) == 0
    assert "36/36 quantized linears agree" in capsys.readouterr().out


def test_an_interrupted_calibration_goes_on(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qvggt.calib import calibrate as driver

    line = (inputs / "float.safetensors", "--bits", "w4a4", "--data", inputs / "scenes", *RECIPE)
    assert call("calibrate", *line, "-o", tmp_path / "whole") == 0
    real, calls = driver.calibrate_block, []
    monkeypatch.setattr(driver, "calibrate_block", interrupted(real, calls, at=5))
    assert call("calibrate", *line, "-o", tmp_path / "cut") == 130
    assert not (tmp_path / "cut").exists()
    monkeypatch.setattr(driver, "calibrate_block", lambda *args: calls.append(1) or real(*args))
    capsys.readouterr()
    refused = mistake(capsys, "calibrate", *line, "-o", tmp_path / "cut", "--seed", 1)
    assert "calibration of another configuration (differs in" in refused
    assert "seed" in refused
    assert call("calibrate", *line, "-o", tmp_path / "cut") == 0
    assert "going on after 4 finished blocks" in capsys.readouterr().out
    assert len(calls) == 5 + 5
    assert load_calibrated(tmp_path / "cut").sha256 == load_calibrated(tmp_path / "whole").sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "whole"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--recipe", "magic"), "rtn, smoothquant"),
        (("--rounding", "up"), "'rtn', 'gptq'"),
        (("--fc2", "dense"), "'none', 'kronecker'"),
        (("--propagation", "none"), "'float', 'quantized'"),
        (("--recipe", "quarot"), "--data"),
    ],
)
def test_mistakes_in_the_recipe(
    options: tuple[str, ...], word: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = mistake(capsys, "calibrate", inputs / "float.safetensors", *options, "-o", tmp_path / "c")
    assert word in error
    assert list(tmp_path.iterdir()) == []


def test_a_calibrated_checkpoint_keeps_its_scheme(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("calibrate", *RTN, inputs / "float.safetensors", "--bits", "w4a8", "-o", tmp_path / "c") == 0
    capsys.readouterr()
    assert "w4a8" in mistake(capsys, "export", tmp_path / "c", "--bits", "w8a8", "-o", tmp_path / "m.onnx")
    assert "calibrated already" in mistake(capsys, "calibrate", *RTN, tmp_path / "c", "-o", tmp_path / "d")
