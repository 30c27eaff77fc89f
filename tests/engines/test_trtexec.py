"""The trtexec backend: the command it writes down, and what it makes of a run (of a stand-in, as there is no GPU)."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from rtx_forms import write_network

from qvggt import QvggtError
from qvggt.engines.build_config import BuildConfig
from qvggt.engines.builder import BuildResult, build_engine, plan_trtexec, read_source
from qvggt.engines.manifest import check_engine
from qvggt.engines.trtexec import command_path, last_error, trtexec_command, version

PROFILE = {"images": ((1, 1, 3, 56, 56), (1, 4, 3, 56, 56), (1, 8, 3, 56, 56))}
LAYERS = (
    '{"Layers": [{"Name": "g", "LayerType": "gemm",'
    ' "Inputs": [{"Dimensions": [1, -1, 256], "Format/Datatype": "Int8"}],'
    ' "Constants": [{"Dimensions": [256, 384], "Format/Datatype": "Int8"}],'
    ' "Metadata": "[ONNX Layer: aggregator.frame_blocks.0.mlp.fc1/MatMul]"}]}'
)
posix = pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")


def test_the_command() -> None:
    command = trtexec_command(Path("/models/m w8.onnx"), "m.engine", [PROFILE])
    assert shlex.join(command) == (
        "trtexec '--onnx=/models/m w8.onnx' --stronglyTyped --saveEngine=m.engine --profilingVerbosity=detailed "
        "--exportLayerInfo=layers.json --skipInference --minShapes=images:1x1x3x56x56 --optShapes=images:1x4x3x56x56 "
        "--maxShapes=images:1x8x3x56x56"
    )
    assert not [flag for flag in command if flag.startswith(("--fp16", "--int8", "--best", "--precisionConstraints"))]
    assert len(trtexec_command(Path("m.onnx"), "m.engine", [{}])) == 7


def test_version_and_error_of_a_log() -> None:
    assert version("&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9]") == "10.13.3"
    assert version("[TensorRT v110000]") == "11.0.0"
    assert version("no such line") == "unknown"
    assert last_error("[I] a\n[E] what went wrong\n[I] b\n") == "[E] what went wrong"
    assert last_error("only this") == "only this"
    assert last_error("") == "no output"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return write_network(tmp_path / "models" / "m.onnx", "w8a8")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a trtexec on PATH that runs the given shell lines."""

    def install(*lines: str) -> None:
        script = tmp_path / "bin" / "trtexec"
        script.parent.mkdir()
        script.write_text("\n".join(("#!/bin/sh", *lines)))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")

    return install


def build(model: Path) -> BuildResult:
    config = BuildConfig("trtexec", frames=(1, 4, 8))
    return build_engine(read_source(model), model.with_suffix(".engine"), config, shown=False)


def names(model: Path) -> list[str]:
    return sorted(path.name for path in model.parent.iterdir())


@posix
def test_a_run(model: Path, stand_in: Any) -> None:
    stand_in(
        'echo "&&&& RUNNING TensorRT.trtexec [TensorRT v101303]"',
        'for a in "$@"; do case $a in',
        '  --saveEngine=*) printf engine > "${a#*=}";;',
        f'  --exportLayerInfo=*) echo {shlex.quote(LAYERS)} > "${{a#*=}}";;',
        "esac; done",
    )
    result = build(model)
    assert result.engine.read_bytes() == b"engine"
    manifest = check_engine(result.engine)
    assert (manifest.backend, manifest.backend_version) == ("trtexec", "10.13.3")
    assert result.report.summary == "1/1 linears INT8 GEMM, weights stored as Int8 (1.00 bytes each)"
    expected = ["m.engine", "m.engine.layers.json", "m.engine.manifest.json", "m.engine.trtexec.sh", "m.onnx"]
    assert names(model) == expected
    shapes = "--maxShapes=x:1x8x256"
    assert shapes in command_path(result.engine).read_text()


@posix
def test_the_report_is_of_the_worst_profile(model: Path, stand_in: Any) -> None:
    """Each has kernels of its own for the same node."""
    float_row = LAYERS.replace('"g"', '"g [profile 1]"').replace("Int8", "Half").partition("[")[2]
    layers = f"{LAYERS[:-2]}, {float_row}"
    stand_in(
        'for a in "$@"; do case $a in',
        '  --saveEngine=*) printf engine > "${a#*=}";;',
        f'  --exportLayerInfo=*) echo {shlex.quote(layers)} > "${{a#*=}}";;',
        "esac; done",
    )
    config = BuildConfig("trtexec", frames=(1, 1, 1), profiles=((2, 4, 8),))
    report = build_engine(read_source(model), model.with_suffix(".engine"), config, shown=False).report
    assert report.summary.startswith("0/1 linears INT8 GEMM")


@posix
def test_a_run_without_layer_information_claims_nothing(model: Path, stand_in: Any) -> None:
    stand_in('for a in "$@"; do case $a in --saveEngine=*) printf engine > "${a#*=}";; esac; done')
    report = build(model).report
    assert "not measured" in report.summary
    assert not report.passed
    assert not report.failed


@posix
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ("echo '[E] Error[1]: no GPU here'", "exit 1"),
            r"trtexec ended with 1: \[E\] Error\[1\]: no GPU here; nothing",
        ),
        (("exit 0",), "wrote no engine"),
    ],
)
def test_a_failed_run_leaves_the_command_only(model: Path, stand_in: Any, lines: tuple[str, ...], words: str) -> None:
    stand_in(*lines)
    with pytest.raises(QvggtError, match=words):
        build(model)
    assert names(model) == ["m.engine.trtexec.sh", "m.onnx"]


@posix
@pytest.mark.parametrize("end", ["sleep 60", "exit 1"])
def test_an_old_trtexec_is_stopped(model: Path, stand_in: Any, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its first line, before it has built anything: as on JetPack 6."""
    monkeypatch.setattr("qvggt.engines.trtexec.TICK", 0.05)
    stand_in('echo "&&&& RUNNING TensorRT.trtexec [TensorRT v100300]"', f"exec {end}" if "sleep" in end else end)
    start = time.monotonic()
    with pytest.raises(QvggtError, match=r"TensorRT 10\.3\.0: expected 10\.12 or newer.*JetPack 7"):
        build(model)
    assert time.monotonic() - start < 50
    assert names(model) == ["m.engine.trtexec.sh", "m.onnx"]


@posix
def test_layer_information_of_tensorrt_10(model: Path, stand_in: Any) -> None:
    """Without constants: the kernel is told by the tactic, the storage by nothing."""
    tactic = "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize128x128x64_stage3_warpsize2x2x1_tensor16x8x32"
    layers = LAYERS.replace(
        ' "Constants": [{"Dimensions": [256, 384], "Format/Datatype": "Int8"}],', f' "TacticName": "{tactic}",'
    )
    assert "Constants" not in layers
    stand_in(
        'for a in "$@"; do case $a in',
        '  --saveEngine=*) printf engine > "${a#*=}";;',
        f'  --exportLayerInfo=*) echo {shlex.quote(layers)} > "${{a#*=}}";;',
        "esac; done",
    )
    report = build(model).report
    assert report.summary == "1/1 linears INT8 GEMM, storage not listed"
    assert report.passed


def test_without_the_binary_the_command_is_left(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QvggtError, match=r"trtexec: not on PATH, so nothing was built; run .*m\.engine\.trtexec\.sh"):
        build(model)
    assert names(model) == ["m.engine.trtexec.sh", "m.onnx"]
    command, saved = plan_trtexec(read_source(model), model.with_suffix(".engine"), BuildConfig("trtexec"))
    assert saved.read_text() == f"#!/bin/sh\n{shlex.join(command)}\n"
