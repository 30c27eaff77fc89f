"""Which runner a path and options give, and that no option is ignored."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from calling import call
from fake_tensorrt import write

from qvggt import QvggtError
from qvggt.engines import registry
from qvggt.engines.engine_runner import EngineRunner
from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.engines.opening import open_runner
from qvggt.engines.openvino_runner import OpenVINORunner
from qvggt.engines.registry import RunnerKind, RunnerOptions, kind_of, kinds_of, register, runtimes, split_runtime
from qvggt.engines.runner import Runner
from qvggt.engines.torch_runner import TorchRunner


def test_kinds_go_by_the_suffix():
    names = ["a.onnx", "b.ONNX", "m.engine", "m.PLAN", "tiny", "folder", "w.safetensors"]
    files, engines, models = ("onnxruntime", "openvino"), ("tensorrt", "rtx"), ("torch",)
    able = [tuple(kind.name for kind in kinds_of(name)) for name in names]
    assert able == [files, files, engines, engines, models, models, models]


def test_each_source_has_a_default(small_onnx, small_checkpoint, engine, trt):
    assert isinstance(open_runner(small_onnx, RunnerOptions(threads=1)), OnnxRunner)
    assert isinstance(open_runner(small_onnx, RunnerOptions(runtime="onnxruntime"), threads=1), OnnxRunner)
    assert isinstance(open_runner(small_checkpoint), TorchRunner)
    assert isinstance(open_runner(small_checkpoint, RunnerOptions("torch")), TorchRunner)
    assert isinstance(open_runner(engine), EngineRunner)
    assert isinstance(open_runner(engine, runtime="rtx", device="cuda"), EngineRunner)


def test_openvino_when_asked(small_onnx):
    pytest.importorskip("openvino")
    runner = open_runner(small_onnx, RunnerOptions("openvino", precision="f32", threads=1))
    assert isinstance(runner, OpenVINORunner)


def test_trtexec_engines_run_on_tensorrt(tmp_path, trt):
    path = write(tmp_path / "m.plan", backend="trtexec")
    assert isinstance(open_runner(path, runtime="tensorrt"), EngineRunner)
    with pytest.raises(QvggtError, match="is an engine of tensorrt, not of rtx"):
        open_runner(path, runtime="rtx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tflite"}, "runtime 'tflite': expected one of onnxruntime, openvino"),
        ({"providers": "cuda"}, "providers 'cuda': expected a list"),
        ({"providers": []}, r"providers \[\]: expected a list"),
        (
            {"runtime": "tensorrt"},
            "tensorrt runs no such file, onnxruntime or openvino does; build it with qvggt build",
        ),
        ({"runtime": "torch"}, "torch runs no such file"),
        ({"precision": "bf16"}, "onnxruntime has no use for precision 'bf16'; leave it out"),
        ({"cuda_graph": True}, "onnxruntime has no use for cuda_graph True"),
        ({"device": "tpu"}, "ONNX Runtime runs on cpu or cuda here, got tpu"),
        ({"providers": ["cuda"]}, "CUDAExecutionProvider: not in this onnxruntime"),
        ({"device": "cuda"}, "CUDAExecutionProvider: not in this onnxruntime"),
        ({"runtime": "openvino", "device": "cuda"}, "OpenVINO runs on the CPU here, got device cuda"),
        ({"runtime": "openvino", "providers": ["cpu"]}, "openvino has no use for providers"),
        ({"runtime": "openvino", "precision": "int8"}, "precision 'int8': OpenVINO runs f32 or bf16 here"),
    ],
)
def test_options_of_an_onnx_file(small_onnx, options, message):
    with pytest.raises(QvggtError, match=message) as caught:
        open_runner(small_onnx, **options)
    assert "\n" not in str(caught.value)


def test_options_of_an_engine(engine, trt):
    with pytest.raises(QvggtError, match="an engine runs on an NVIDIA GPU only, got device cpu; give cuda"):
        open_runner(engine, device="cpu")
    with pytest.raises(QvggtError, match="onnxruntime runs no such file, tensorrt or rtx does; give its ONNX file"):
        open_runner(engine, runtime="onnxruntime")
    with pytest.raises(QvggtError, match="rtx has no use for providers"):
        open_runner(engine, providers=["cuda"])


def test_a_checkpoint_is_no_file_of_a_runtime(small_checkpoint):
    with pytest.raises(QvggtError, match="openvino runs no such file, torch does; export it first"):
        open_runner(small_checkpoint, runtime="openvino")


def test_every_option_is_somebodys():
    known = {field.name for field in dataclasses.fields(RunnerOptions)} - {"runtime"}
    kinds = [kind for source in ("a.onnx", "a.engine", "a") for kind in kinds_of(source)]
    assert set().union(*(kind.uses for kind in kinds)) == known
    assert {kind.name for kind in kinds} == set(runtimes())


def test_a_runtime_before_a_file_name():
    assert split_runtime("openvino:a.onnx") == ("openvino", "a.onnx")
    assert split_runtime("C:/a.onnx") == (None, "C:/a.onnx")
    assert split_runtime("torch:tiny") == (None, "torch:tiny")  # opens no files


class NumpyRunner(Runner):
    """A stranger's runtime: the identity pose and a constant depth, from a file that holds the depth."""

    outputs = ("pose_enc", "depth")
    frame_range = (2, 4)

    def __init__(self, path, device):
        self.path, self.device, self.label, self.closed_now = path, device, f"numpy {path}", False
        self.depth = float(Path(path).read_text())

    def _run(self, images):
        frames, _, height, width = images.shape
        pose = np.tile(np.array([0, 0, 0, 0, 0, 0, 1, 1, 1], np.float32), (1, frames, 1))
        return {"pose_enc": pose, "depth": np.full((1, frames, height, width, 1), self.depth, np.float32)}

    def close(self):
        self.closed_now = True

    @property
    def closed(self):
        return self.closed_now

    def describe(self):
        return {"kind": "numpy", **self._facts(), "scheme": "fp32", "providers": [self.device]}


@pytest.fixture
def numpy_runtime(monkeypatch, tmp_path):
    """A file of that runtime, which is registered."""
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    opener = lambda source, options: NumpyRunner(source, options.device)  # noqa: E731
    register(RunnerKind("numpy", (".txt",), opener, uses=("device",), advice="write it as ONNX"))
    (tmp_path / "m.txt").write_text("2.5")
    return tmp_path / "m.txt"


def test_a_runner_of_somebody_else_is_opened(numpy_runtime):
    runner = open_runner(numpy_runtime)
    assert (type(runner), runner.device) == (NumpyRunner, "cpu")
    assert runtimes()[-1] == kind_of(numpy_runtime).name == "numpy"
    with pytest.raises(QvggtError, match="numpy has no use for precision 'bf16'"):
        open_runner(numpy_runtime, precision="bf16")
    with pytest.raises(QvggtError, match="torch runs no such file, numpy does; write it as ONNX"):
        open_runner(numpy_runtime, runtime="torch")
    with pytest.raises(QvggtError, match="runtime numpy: is registered already"):
        register(RunnerKind("numpy", (".npy",), NumpyRunner, uses=(), advice=""))


def test_a_runner_of_somebody_else_is_evaluated(numpy_runtime, tmp_path, capsys, one_thread):
    candidate = ("--engine", str(numpy_runtime), "--dataset", "synthetic", "--scenes", "2", "--size", "56")
    code = call("eval", *candidate, "--frames", "3", "--json", tmp_path / "r.json")
    assert code == 0, capsys.readouterr().err
    (row,) = json.loads((tmp_path / "r.json").read_text())["candidates"]
    assert row["kind"] == "numpy"
    assert all(record["depth"] is not None for record in row["sequences"])
    assert call("eval", *candidate, "--frames", "5") == 2
    assert "takes 2 to 4 frames" in capsys.readouterr().err


def test_opening_imports_one_runtime(small_onnx):
    """Neither the modules of other runners nor their packages."""
    code = (
        "import sys; from qvggt.engines.opening import open_runner; print(*sys.modules); "
        f"open_runner({str(small_onnx)!r}, threads=1); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    runners = {f"qvggt.engines.{name}_runner" for name in ("onnx", "openvino", "engine", "torch")}
    assert not before & (runners | {"onnxruntime", "openvino", "torch"})
    assert after & (runners | {"openvino"}) == {"qvggt.engines.onnx_runner"}
