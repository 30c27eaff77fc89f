"""ONNX -> engine, manifest and report: what is written, what is refused, what is left after a failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rtx_forms import write_network

from qvggt import QvggtError
from qvggt.engines import trt_build
from qvggt.engines.build_config import BuildConfig, capability
from qvggt.engines.builder import build_engine, check_form, check_precision, plan_profile, read_source, report_path
from qvggt.engines.manifest import check_engine, manifest_path
from qvggt.files import file_sha256
from qvggt.target import Target

rtx = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("tensorrt_rtx"),
    reason="needs TensorRT-RTX: pip install '.[rtx]' in the clone",
)
CONFIG = BuildConfig(frames=(1, 4, 8), compute_capabilities=("8.9",))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def build(path: Path, config: BuildConfig = CONFIG) -> Any:
    return build_engine(read_source(path), path.with_suffix(".engine"), config, shown=False)


def refusal(path: Path, config: BuildConfig = CONFIG) -> str:
    before = names(path.parent)
    with pytest.raises(QvggtError) as caught:
        build(path, config)
    assert names(path.parent) == before, "something was left behind"
    message = str(caught.value)
    assert "\n" not in message
    return message


def foreign(
    path: Path, op: str, inputs: int = 1, outputs: int = 1, shape: Any = (1, "n", 64), **attributes: Any
) -> Path:
    """One node of any kind on float inputs of one shape."""
    sources = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in range(inputs)]
    results = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(outputs)]
    node = helper.make_node(op, [s.name for s in sources], [r.name for r in results], name=f"the/{op}", **attributes)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", sources, results), opset_imports=opsets, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = write_network(tmp_path_factory.mktemp("built") / "m.onnx", "w8a8")
    pytest.importorskip("tensorrt_rtx")
    return build(path)


def test_engine_manifest_and_report_belong_together(built: Any) -> None:
    engine = built.engine
    assert names(engine.parent) == ["m.engine", "m.engine.layers.json", "m.engine.manifest.json", "m.onnx"]
    manifest = check_engine(engine)
    assert manifest == built.manifest
    assert [file.name for file in manifest.onnx] == ["m.onnx"]
    assert manifest.onnx[0].sha256 == file_sha256(engine.with_suffix(".onnx"))
    assert (manifest.backend, manifest.precision) == ("rtx", "fp16")
    assert manifest.backend_version[0].isdigit()
    assert manifest.profile == {"x": ((1, 1, 256), (1, 4, 256), (1, 8, 256))}
    assert manifest.compute_capabilities == ("8.9",)
    assert manifest.scheme is not None
    assert manifest.scheme["bits"] == "w8a8"
    assert manifest.report["passed"] is True
    assert manifest.build["seconds"] > 0
    report = json.loads(report_path(engine).read_text())
    assert report["summary"] == manifest.report["summary"] == built.report.summary
    assert report["linears"][0]["passed"] is True


def test_equal_builds_give_equal_engines(built: Any, tmp_path: Path) -> None:
    again = build(write_network(tmp_path / "again.onnx", "w8a8"))
    assert again.manifest.engine.sha256 == built.manifest.engine.sha256


@rtx
def test_external_data_is_hashed_and_used(tmp_path: Path) -> None:
    inline = write_network(tmp_path / "inline.onnx", "w8a8")
    external = tmp_path / "m.onnx"
    onnx.save(onnx.load(inline), external, save_as_external_data=True, location="m.data", size_threshold=0)
    manifest = build(external).manifest
    assert [file.name for file in manifest.onnx] == ["m.onnx", "m.data"]
    assert manifest.onnx[1].sha256 == file_sha256(tmp_path / "m.data")
    assert manifest.engine.sha256 == build(inline).manifest.engine.sha256


def test_external_data_that_escapes_never_reaches_the_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "in").mkdir()
    tensor = TensorProto(name="w", dims=[4, 4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    path = tmp_path / "in" / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert "external data" in refusal(path)


@rtx
def test_a_refused_node_is_named(tmp_path: Path) -> None:
    message = refusal(foreign(tmp_path / "m.onnx", "Unique"))
    assert "TensorRT-RTX refuses the graph: Unique the/Unique: " in message


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@rtx
def test_a_crash_of_the_parser_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashing.py").write_text(
        "import os, signal\n"
        "from tensorrt_rtx import *\n"
        "class OnnxParser:\n"
        "    def __init__(self, network, logger): self.logger = logger\n"
        "    def parse_from_file(self, path):\n"
        "        self.logger.log(ILogger.Severity.VERBOSE, 'Parsing node: the/Crash [Crash]')\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(trt_build.MODULES, "rtx", "crashing")
    message = refusal(foreign(tmp_path / "m.onnx", "Relu"))
    assert (
        "the TensorRT-RTX process ended with signal SIGSEGV at node the/Crash [Crash]; nothing was written" in message
    )


@rtx
def test_a_form_that_does_not_build_says_why(tmp_path: Path) -> None:
    """A stored code without an axis (lint rule QV108)."""
    one, w, zero = (
        numpy_helper.from_array(np.array(value, kind), name)
        for name, value, kind in (("one", 1, np.float32), ("w", 1, np.int8), ("zero", 0, np.int8))
    )
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "one", "zero"], ["wd"]),
        helper.make_node("Mul", ["x", "wd"], ["y"], name="product"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, "n", 64]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [one, w, zero])
    path = tmp_path / "m.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    )
    message = refusal(path, BuildConfig(frames=(1, 4, 8), compute_capabilities=("8.6",)))
    assert "TensorRT-RTX cannot build it: Error Code 4: API Usage Error (Quantized constant (w) is only" in message


@rtx
def test_a_linear_that_lost_its_kernel_is_reported(tmp_path: Path) -> None:
    """A scale computed at run time turns INT8 into fake quantization: the build succeeds, the report does not."""
    model = onnx.load(write_network(tmp_path / "m.onnx", "w8a8", "static", "fp32"))
    (quantize,) = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    (dequantize,) = [n for n in model.graph.node if quantize.output[0] in n.input]
    head = [
        helper.make_node("Abs", [quantize.input[0]], ["amax"]),
        helper.make_node("ReduceMax", ["amax"], ["scale"], keepdims=0),
    ]
    quantize.input[1] = dequantize.input[1] = "scale"
    nodes = list(model.graph.node)
    at = nodes.index(quantize)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], *head, *nodes[at:]])
    onnx.save(model, tmp_path / "m.onnx")
    result = build(tmp_path / "m.onnx")
    assert not result.report.passed
    assert result.report.summary.startswith("0/1 linears INT8 GEMM")
    assert result.manifest.report["passed"] is False
    assert check_engine(result.engine).report["failed"] == ["aggregator.frame_blocks.0.mlp.fc1"]


@rtx
def test_static_shapes_need_no_profile(tmp_path: Path) -> None:
    path = foreign(tmp_path / "m.onnx", "Relu", shape=(1, 4, 64))
    assert build(path, BuildConfig()).manifest.profile == {}
    assert "fixes its shapes" in refusal(path)


def test_shapes_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "m.onnx", "Relu", shape=("batch", "n", 64))
    assert "input x0 [?, ?, 64] has 2 symbolic dimensions, expected one" in refusal(path)


def test_frames_of_the_file_are_the_default(small_onnx: Path) -> None:
    source = read_source(small_onnx)
    shape = plan_profile(source, BuildConfig())["images"]
    assert [dims[1] for dims in shape] == [1, 8, 32]
    assert plan_profile(source, BuildConfig(frames=(2, 3, 4)))["images"][2] == (1, 4, 3, 56, 56)


def test_another_float_type_is_refused(tmp_path: Path) -> None:
    source = read_source(write_network(tmp_path / "m.onnx", "w8a8"))
    check_precision(source, "fp16")
    check_precision(source, None)
    with pytest.raises(QvggtError, match=r"--precision bf16: .*m\.onnx is an fp16 network.*--precision bf16"):
        check_precision(source, "bf16")


@rtx
def test_unknown_gpu_generations_are_refused(tmp_path: Path) -> None:
    message = refusal(foreign(tmp_path / "m.onnx", "Relu"), BuildConfig(compute_capabilities=("99.0",)))
    assert "--cc 99.0: this builder knows" in message
    assert "8.9" in message
    with pytest.raises(QvggtError, match=r"--cc 9\.0: TensorRT-RTX has no kernels.*\(H100.*--backend tensorrt"):
        BuildConfig(compute_capabilities=("8.9", "9.0"))


@pytest.mark.parametrize("text", ["8", "8.6;8.9", "8.6,8.9", "sm86", "", "8.66"])
def test_capabilities_that_are_none(text: str) -> None:
    with pytest.raises(QvggtError, match=r"expected compute capabilities such as 8\.6,8\.9,12\.0"):
        capability(text)


def test_capabilities() -> None:
    assert [capability(text) for text in ("8.6", "12.0")] == ["8.6", "12.0"]
    with pytest.raises(QvggtError, match="builds for the GPU it runs on"):
        BuildConfig("tensorrt", compute_capabilities=("8.6",))
    with pytest.raises(QvggtError, match="expected one of rtx, tensorrt, trtexec"):
        BuildConfig("onnx")


def test_a_name_that_is_no_engines(tmp_path: Path) -> None:
    source = read_source(foreign(tmp_path / "m.onnx", "Relu"))
    with pytest.raises(QvggtError, match=r"ending in \.engine or \.plan"):
        build_engine(source, tmp_path / "m.onnx", CONFIG)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is found through PYTHONPATH only on POSIX")
@rtx
def test_the_tensorrt_backend_runs_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain TensorRT needs a GPU to build; RTX under its name has the same API and shows the path is complete."""
    package = tmp_path / "site" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from tensorrt_rtx import *\n__version__ = '10.13.0'\n")
    monkeypatch.syspath_prepend(package.parent)
    (tmp_path / "in").mkdir()
    result = build(write_network(tmp_path / "in" / "m.onnx", "w8a8"), BuildConfig("tensorrt", frames=(1, 4, 8)))
    assert (result.manifest.backend, result.manifest.backend_version) == ("tensorrt", "10.13.0")
    assert result.report.passed
    (package / "__init__.py").write_text("__version__ = '10.11.0'  # and nothing to build with\n")
    config = BuildConfig("tensorrt", frames=(1, 4, 8))
    assert "TensorRT 10.11.0: expected 10.12 or newer" in refusal(tmp_path / "in" / "m.onnx", config)


@pytest.mark.parametrize(("bits", "act"), [("w4a4", "dynamic"), ("w4a4", "static")])
def test_int4_that_tensorrt_does_not_take_is_refused(bits: str, act: str, tmp_path: Path) -> None:
    """Whatever built it: before a process is started, with the option that writes another form."""
    source = read_source(write_network(tmp_path / "m.onnx", bits, act))
    for backend in ("tensorrt", "trtexec"):
        with pytest.raises(QvggtError, match=r"does not take, .*--target tensorrt --backend tensorrt") as caught:
            build_engine(source, tmp_path / "m.engine", BuildConfig(backend, frames=(1, 4, 8)))
        assert "\n" not in str(caught.value)
        check_form(read_source(write_network(tmp_path / "n.onnx", bits, act, target=Target.TENSORRT_10)), backend)
    check_form(source, "rtx")


def test_a_backend_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trt_build.MODULES, "rtx", "no_such_builder")
    message = refusal(foreign(tmp_path / "m.onnx", "Relu"))
    assert (
        "--backend rtx needs TensorRT-RTX, No module named 'no_such_builder': pip install '.[rtx]' in the clone"
        in message
    )


@rtx
def test_a_model_that_changes_during_the_build_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = foreign(tmp_path / "m.onnx", "Relu")
    run = trt_build.build_with_python

    def meddle(*arguments: Any) -> Any:
        built = run(*arguments)
        path.write_bytes(path.read_bytes() + b"\0")
        return built

    monkeypatch.setattr("qvggt.engines.builder.build_with_python", meddle)
    assert "changed while it was built" in refusal(path)


@rtx
def test_an_older_engine_survives_a_failed_build(tmp_path: Path) -> None:
    path = foreign(tmp_path / "m.onnx", "Relu")
    engine = build(path).engine
    before = engine.read_bytes(), manifest_path(engine).read_bytes()
    foreign(path, "Unique")
    refusal(path)
    assert (engine.read_bytes(), manifest_path(engine).read_bytes()) == before
    check_engine(engine)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_build_leaves_no_engine_and_no_process(tmp_path: Path) -> None:
    """SIGKILL of the command in mid-build: nothing under the engine's name, and the builder's process ends with it."""
    (tmp_path / "site").mkdir()
    started = tmp_path / "site" / "started"
    (tmp_path / "site" / "slow_builder.py").write_text(f"import time\nopen({str(started)!r}, 'w')\ntime.sleep(600)\n")
    path = foreign(tmp_path / "m.onnx", "Relu")
    script = f"""
import subprocess
from qvggt.engines import trt_build
from qvggt.engines.builder import BuildConfig, build_engine, read_source

class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        print(self.pid, flush=True)

subprocess.Popen = Popen
trt_build.MODULES["rtx"] = "slow_builder"
build_engine(read_source({str(path)!r}), {str(tmp_path / "m.engine")!r}, BuildConfig())
"""
    places = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as command:
        assert command.stdout is not None
        worker = int(command.stdout.readline())
        wait_until(started.exists)
        assert alive(worker)
        command.kill()
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["m.onnx", "site"]
    wait_until(lambda: not alive(worker))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
