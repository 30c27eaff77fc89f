"""qvggt lint, and the lint that every qvggt export runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import call
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qvggt.jobs.job import read_job
from qvggt.jobs.lint import SHOWN, LintJob


def model(zero_point: int = 0, weights: int = 1) -> ModelProto:
    """Static w8a8 products in float32, each with the same zero point."""
    nodes, tensors = [], [numpy_helper.from_array(np.array(0.1, np.float32), "step")]
    tensors.append(numpy_helper.from_array(np.array(zero_point, np.int8), "zero"))
    x = "x"
    for index in range(weights):
        tensors.append(numpy_helper.from_array(np.ones((8, 8), np.int8), f"w{index}"))
        nodes += [
            helper.make_node("QuantizeLinear", [x, "step", "zero"], [f"q{index}"], name=f"q{index}"),
            helper.make_node("DequantizeLinear", [f"q{index}", "step", "zero"], [f"d{index}"], name=f"d{index}"),
            helper.make_node("DequantizeLinear", [f"w{index}", "step"], [f"v{index}"], name=f"v{index}"),
            helper.make_node("MatMul", [f"d{index}", f"v{index}"], [f"y{index}"], name=f"matmul{index}"),
        ]
        x = f"y{index}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["m", 8]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def save(proto: ModelProto) -> Path:
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        return tmp_path / "m.onnx"

    return save


def test_a_clean_file(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(model())
    assert call("lint", path) == 0
    assert capsys.readouterr().out == f"{path}: 0 errors and 0 warnings for tensorrt\n"


def test_an_illegal_file(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(model(zero_point=3))
    assert call("lint", path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("error QV101 zero-point at q0 (QuantizeLinear): a zero point other than 0")
    assert "quantize symmetrically" in lines[0]
    assert lines[2] == f"{path}: 2 errors and 0 warnings for tensorrt"
    assert call("lint", path, "--target", "cpu") == 0


def test_many_places_of_one_rule_are_cut(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("lint", write(model(zero_point=3, weights=20))) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == SHOWN + 2
    assert lines[-2] == f"... and QV101 at {40 - SHOWN} other places"
    assert call("lint", tmp_path / "m.onnx", "-v") == 1
    assert capsys.readouterr().out.count("error QV101") == 40


def test_json_has_everything(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(model(zero_point=3, weights=20))
    assert call("lint", path, "--json", "-") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["errors"], found["warnings"], found["target"]) == (40, 0, "tensorrt")
    assert len(found["findings"]) == 40
    assert found["findings"][0] == {
        "rule": "QV101",
        "name": "zero-point",
        "severity": "error",
        "node": "q0",
        "op": "QuantizeLinear",
        "reason": "a zero point other than 0: TensorRT's grids are symmetric, it refuses the model (1 of 1, first 3)",
        "fix": "quantize symmetrically, with a zero point of 0",
        "evidence": "seen in TensorRT-RTX 1.7.1",
    }


def test_findings_name_their_tensorrt(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(model(zero_point=3))
    assert call("lint", path) == 1
    assert capsys.readouterr().out.splitlines()[0].endswith("[seen in TensorRT-RTX 1.7.1]")
    assert call("lint", path, "--backend", "tensorrt") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("[NVIDIA's documentation of TensorRT 10 and 11]")
    assert lines[-1].endswith("for tensorrt (10.12 or newer, not RTX)")
    assert call("lint", path, "--backend", "trtexec", "--json", "-") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["target"], found["backend"]) == ("tensorrt", "tensorrt")
    assert call("lint", path, "--target", "cpu", "--backend", "tensorrt") == 2
    assert "--backend tensorrt: is for --target tensorrt, got cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"), [(("--target", "tpu"), "'tensorrt', 'cpu'"), (("-q", "-v"), "contradict each other")]
)
def test_mistakes(options: tuple[str, ...], words: str, write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("lint", write(model()), *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_unreadable_files(content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    assert call("lint", tmp_path / "m.onnx") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes of POSIX")
def test_a_pipe_is_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    assert call("lint", tmp_path / "m.onnx") == 2
    assert "no regular file" in capsys.readouterr().err


def test_a_program_gets_what_the_command_says(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = LintJob(write(model(zero_point=3)))
    assert read_job(job.save(tmp_path / "job.json")) == job
    result = job.run()
    assert not result.passed
    assert capsys.readouterr().out == ""
    assert call("lint", "--config", tmp_path / "job.json", "--json", tmp_path / "found.json") == 1
    assert json.loads((tmp_path / "found.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    assert call("lint", "--config", tmp_path / "job.json", "--target", "cpu") == 0


def test_export_lints(small_float: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = (small_float, "-o", tmp_path / "m.onnx", "--target", "tensorrt", "--no-check")
    assert call("export", *line) == 0
    assert "lint: 0 errors and 0 warnings for tensorrt" in capsys.readouterr().out


@pytest.mark.parametrize("check", [("--no-check",), ("--parity-sequences", 0, "--parity-frames", "1")])
def test_an_illegal_export_ends_with_one(
    small_float: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    check: tuple[Any, ...],
) -> None:
    """As for a failed parity gate the file stays, so that it can be looked into."""
    from qvggt.export.lint import operators

    monkeypatch.setattr(operators, "UNSUPPORTED", frozenset({"QuantizeLinear"}))
    line = (small_float, "-o", tmp_path / "m.onnx", "--target", "tensorrt", *check)
    assert call("export", *line) == 1
    captured = capsys.readouterr()
    assert "QV601" in captured.err
    assert "parity" in captured.out
    assert (tmp_path / "m.onnx").exists()
