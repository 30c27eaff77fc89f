"""qvggt build from the command line to the files; a mistake is one line and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import calling
import onnx
import pytest
from onnx import TensorProto, helper

from qvggt.engines.build_config import BuildConfig
from qvggt.engines.builder import plan_profiles, read_source
from qvggt.engines.manifest import check_engine
from qvggt.jobs import build
from qvggt.jobs.build import BuildJob
from qvggt.jobs.job import read_job
from qvggt.onnx_view.halves import heads_path

rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install '.[rtx]' in the clone"
)


call = partial(calling.call, "build")


def product(path: Path, dynamic_scale: bool = False) -> Path:
    """x [1, n, 64] quantized per tensor, times an int8 weight; with a scale computed at run time no INT8 kernel."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["fc.weight_codes", "s"], ["w"], name="fc/DequantizeLinear"),
        helper.make_node("MatMul", ["xd", "w"], ["y"], name="fc/MatMul"),
    ]
    tensors = [
        helper.make_tensor("zero", TensorProto.INT8, [], [0]),
        helper.make_tensor("s", TensorProto.FLOAT, [], [0.1]),
        helper.make_tensor("fc.weight_codes", TensorProto.INT8, [64, 32], [i % 7 for i in range(64 * 32)]),
    ]
    if dynamic_scale:
        nodes.insert(0, helper.make_node("ReduceMax", ["x"], ["xs"], keepdims=0))
    else:
        tensors.append(helper.make_tensor("xs", TensorProto.FLOAT, [], [0.1]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "n", 32])
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"qvggt.linears": '{"fc": "w8a8-static"}'})
    onnx.save(model, path)
    return path


@rtx
def test_build(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "LARGE_SCRATCH", -1)
    model, engine = product(tmp_path / "m.onnx"), tmp_path / "out" / "m.engine"
    line = (model, "-o", engine, "--precision", "fp32", "--frames", "1:4:8", "--cc", "8.6,8.9,12.0")
    assert call(*line) == 0
    printed = capsys.readouterr().out
    assert "1/1 linears INT8 GEMM, weights stored as Int8 (1.00 bytes each)" in printed
    assert "nothing was run on a GPU" in printed
    assert "qvggt export --split-heads" in printed
    manifest = check_engine(engine)
    assert manifest.compute_capabilities == ("8.6", "8.9", "12.0")
    assert manifest.profile["x"][2] == (1, 8, 64)
    assert json.loads((tmp_path / "out" / "m.engine.layers.json").read_text())["linears"][0]["path"] == "fc"


@rtx
def test_a_linear_that_is_not_low_bit_ends_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = tmp_path / "m.engine"
    assert call(product(tmp_path / "m.onnx", dynamic_scale=True), "-o", engine, "--frames", "1:4:8") == 1
    captured = capsys.readouterr()
    assert "0/1 linears INT8 GEMM" in captured.out
    assert "not as wanted: fc: INT8 GEMM expected" in captured.err
    assert check_engine(engine).report["passed"] is False


def halves(folder: Path) -> Path:
    """Two such files that say they are a trunk and its heads."""
    for name, half in (("m.onnx", "trunk"), ("m.heads.onnx", "heads")):
        model = onnx.load(product(folder / name))
        helper.set_model_props(model, {"qvggt.half": half, "qvggt.pair": "0" * 64, "qvggt.frames": "1:4:100"})
        onnx.save(model, folder / name)
    return folder / "m.onnx"


@rtx
def test_a_network_in_two_files_is_two_engines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "LARGE_SCRATCH", -1)
    line = (halves(tmp_path), "-o", tmp_path / "m.engine", "--cc", "8.9")
    (tmp_path / "m.heads.engine").write_text("mine")
    assert "m.heads.engine: exists already" in calling.mistake(capsys, "build", *line)
    assert call(*line, "--overwrite", "--json", tmp_path / "m.json") == 0
    assert "--split-heads" not in capsys.readouterr().out
    trunk, heads = (check_engine(tmp_path / name) for name in ("m.engine", "m.heads.engine"))
    assert (trunk.partner, heads.partner) == ("m.heads.engine", "m.engine")
    assert (trunk.profile["x"][2], heads.profile["x"][2]) == ((1, 100, 64), (1, 8, 64))
    result = json.loads((tmp_path / "m.json").read_text())
    assert result["scratch_bytes"] == trunk.build["activation_bytes"]
    assert result["heads"]["engine"] == str(tmp_path / "m.heads.engine")


def test_trtexec_gets_a_command_for_each_of_two_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    model = halves(tmp_path)
    heads = read_source(heads_path(model))
    for several in (((1, 1, 1), ((2, 8, 100),)), ((1, 8, 100), ((1, 1, 1),))):
        (profile,) = plan_profiles(heads, BuildConfig("tensorrt", frames=several[0], profiles=several[1]))
        assert profile["x"] == ((1, 1, 64), (1, 8, 64), (1, 8, 64))
    assert call(model, "-o", tmp_path / "m.plan", "--backend", "trtexec", "--frames", "2:2:2") == 2
    captured = capsys.readouterr()
    assert "m.plan.trtexec.sh and " in captured.err
    for name in ("m", "m.heads"):
        command = (tmp_path / f"{name}.plan.trtexec.sh").read_text()
        assert f"--saveEngine={name}.plan " in command
        assert "--maxShapes=x:1x2x64" in command


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--backend", "cuda"), ("--backend", "'rtx', 'tensorrt', 'trtexec'")),
        (("--precision", "int8"), ("--precision", "'fp32', 'fp16', 'bf16'")),
        (("--precision", "fp16"), ("--precision fp16", "fp32 network", "qvggt export")),
        (("--frames", "8:1"), ("--frames", "min:opt:max")),
        (("--cc", "sm_86"), ("--cc", "8.6,8.9,12.0")),
        (("--cc", "8.6", "--backend", "trtexec"), ("--cc", "leave --cc out")),
        (("--profile", "8:1"), ("--profile", "min:opt:max")),
        (("--timing-cache", "t.cache"), ("--timing-cache", "times no kernels", "--backend tensorrt")),
        (("--optimization-level", "3"), ("--optimization-level", "same kernels")),
        (("--optimization-level", "6", "--backend", "tensorrt"), ("--optimization-level", "less than or equal to 5")),
        (("--workspace", "0"), ("--workspace", "GB above 0")),
        (("--version-compatible",), ("--version-compatible", "no lean runtime")),
        (("--no-such-option",), ("--no-such-option",)),
    ],
)
def test_mistakes_in_the_call(
    options: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = product(tmp_path / "m.onnx")
    error = calling.mistake(capsys, "build", model, "-o", tmp_path / "m.engine", *options)
    assert all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == [model]


def test_mistakes_in_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = product(tmp_path / "m.onnx")
    (tmp_path / "folder.engine").mkdir()
    (tmp_path / "text.onnx").write_text("hello")
    for source, output, word in (
        (tmp_path / "no.onnx", "m.engine", "no.onnx: nothing there"),
        (tmp_path / "text.onnx", "m.engine", "text.onnx"),
        (model, "m.onnx", ".engine or .plan"),
        (model, "folder.engine", "folder.engine"),
    ):
        assert word in calling.mistake(capsys, "build", source, "-o", tmp_path / output)
    cache = ("--backend", "tensorrt", "--timing-cache", tmp_path)
    assert "is a folder, expected a file" in calling.mistake(capsys, "build", model, "-o", tmp_path / "m.plan", *cache)


def test_an_engine_is_replaced_when_asked_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.engine").write_text("an engine")
    line = ("build", product(tmp_path / "m.onnx"), "-o", tmp_path / "m.engine", "--precision", "bf16")
    assert "--overwrite" in calling.mistake(capsys, *line)
    assert "--precision bf16" in calling.mistake(capsys, *line, "--overwrite")


def test_a_stored_build_is_the_same_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = BuildJob(
        "m.onnx",
        tmp_path / "m.engine",
        frames=(1, 2, 3),
        profiles=((4, 4, 4), (5, 6, 7)),
        compute_capabilities=("8.6", "8.9"),
        workspace=2.0,
        weight_streaming=True,
    )
    assert read_job(job.save(tmp_path / "job.json")) == job
    config = ("build", "--config", tmp_path / "job.json", "--save-config", tmp_path / "again.json")
    assert calling.call(*config, "--cc", "12.0,8.6", "--overwrite") == 0
    assert read_job(tmp_path / "again.json") == replace(job, compute_capabilities=("12.0", "8.6"), overwrite=True)


def test_trtexec_is_printed_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    model, engine = product(tmp_path / "m.onnx"), tmp_path / "m.engine"
    assert call(model, "-o", engine, "--backend", "trtexec", "--frames", "1:4:8") == 2
    captured = capsys.readouterr()
    command = captured.out.splitlines()[0]
    assert command.startswith(f"trtexec --onnx={model} --stronglyTyped --saveEngine=m.engine")
    assert command in (tmp_path / "m.engine.trtexec.sh").read_text()
    assert "error: trtexec: not on PATH, so nothing was built" in captured.err
    assert not engine.exists()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_trtexec_is_run_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "bin" / "trtexec"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\necho "[TensorRT v101303]"\nprintf plan > m.plan\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent) + os.pathsep + os.path.dirname(shutil.which("sh") or "/bin/sh"))
    engine = tmp_path / "m.plan"
    assert call(product(tmp_path / "m.onnx"), "-o", engine, "--backend", "trtexec", "--frames", "1:4:8") == 0
    assert "layer report: not measured" in capsys.readouterr().out
    assert check_engine(engine).backend_version == "10.13.3"
