"""--cc: which GPUs a file is for, refused in one line before anything is written."""

from __future__ import annotations

from pathlib import Path

import calling
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qvggt.errors import QvggtError
from qvggt.jobs.gpus import check_gpus, runs_on, scheme_types
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.target import Target

RTX, OWN, CPU = Target.TENSORRT, Target.TENSORRT_10, Target.CPU


@pytest.mark.parametrize(
    ("scheme", "types"),
    [
        (parse_scheme("w8a8"), set()),
        (parse_scheme("fp8", "static"), {"fp8"}),
        (Scheme("w8a8", overrides=(("*.fc2", "nvfp4"),)), {"fp4", "fp8"}),
        (Scheme("w8a8", attention="fp8"), {"fp8"}),
    ],
)
def test_types_of_every_part(scheme: Scheme, types: set[str]) -> None:
    assert scheme_types(scheme) == types


@pytest.mark.parametrize(
    ("bits", "target", "wanted", "reason"),
    [
        ("fp8", RTX, ("8.9", "12.0"), ""),
        ("fp8", RTX, ("8.9", "8.6"), "--cc 8.6: fp8-dynamic: TensorRT-RTX has no fp8 kernels"),
        ("fp8", RTX, ("9.0",), "--cc 9.0: fp8-dynamic: TensorRT-RTX has no kernels for compute capability 9.0"),
        ("fp8", OWN, ("9.0",), ""),
        ("nvfp4", RTX, ("8.9",), "only from 12.0 on"),
        ("nvfp4", OWN, (), "TensorRT documents FP4 inputs for an operator of its own alone"),
        ("fp8", OWN, ("8.7",), "TensorRT has no fp8 kernels for compute capability 8.7, only from 8.9 on"),
        ("w8a8", RTX, ("7.5",), ""),
        ("w4a4", RTX, ("7.5",), "no int4 kernels"),
        ("fp8", CPU, ("8.9",), "--cc: is for --target tensorrt"),
        ("fp8", CPU, (), ""),
    ],
)
def test_what_is_refused(bits: str, target: Target, wanted: tuple[str, ...], reason: str) -> None:
    if not reason:
        check_gpus(wanted, parse_scheme(bits), target)
        return
    with pytest.raises(QvggtError) as error:
        check_gpus(wanted, parse_scheme(bits), target)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_int4_stored_as_int8_runs_on_turing() -> None:
    check_gpus(("7.5",), parse_scheme("w4a4"), RTX, integers=True)


def test_each_format_says_where_it_runs() -> None:
    found = {bits: runs_on(parse_scheme(bits), RTX) for bits in ("w8a8", "w4a4", "fp8", "nvfp4")}
    assert found == {
        "w8a8": "",
        "w4a4": "",
        "fp8": "compute capability 8.9 or newer",
        "nvfp4": "compute capability 12.0 or newer",
    }
    assert runs_on(parse_scheme("nvfp4"), OWN) == "compute capability 10.0 or newer"
    assert runs_on(parse_scheme("nvfp4"), CPU) == ""


def test_export_and_lint_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.onnx"
    words = ("export", "tiny", "--bits", "nvfp4", "--target", "tensorrt", "-o", output)
    assert "has no fp4 kernels" in calling.mistake(capsys, *words, "--cc", "8.9")
    words = ("lint", output, "--target", "cpu")
    assert "--cc: is for --target tensorrt" in calling.mistake(capsys, *words, "--cc", "8.9")
    assert not output.exists()


def test_lint_names_the_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["m", 4]) for name in "xy")
    codes = numpy_helper.from_array(np.ones((4, 4), "uint8"), "codes")
    codes.data_type = TensorProto.FLOAT8E4M3FN
    scale = numpy_helper.from_array(np.float32(0.01), "scale")
    calls = [("DequantizeLinear", ["codes", "scale"], ["w"]), ("MatMul", ["x", "w"], ["y"])]
    nodes = [helper.make_node(*node) for node in calls]
    graph = helper.make_graph(nodes, "g", [x], [y], [codes, scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert calling.call("lint", tmp_path / "m.onnx", "--cc", "8.6,8.9") == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
    assert line.startswith("error QV109 compute-capability at ")
    assert "no fp8 kernels for compute capability 8.6, only from 8.9 on" in line
    assert calling.call("lint", tmp_path / "m.onnx", "--cc", "8.9,12.0") == 0
