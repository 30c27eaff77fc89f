"""Which runner a path and options give, and that no option is ignored."""

from __future__ import annotations

import dataclasses

import pytest
from fake_tensorrt import write

from qvggt import QvggtError
from qvggt.engines.engine_runner import EngineRunner
from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.engines.opening import RUNTIMES, USES, RunnerOptions, kind_of, open_runner
from qvggt.engines.openvino_runner import OpenVINORunner
from qvggt.engines.torch_runner import TorchRunner


def test_kinds_go_by_the_suffix():
    names = ["a.onnx", "b.ONNX", "m.engine", "m.PLAN", "tiny", "folder", "w.safetensors"]
    assert [kind_of(name) for name in names] == ["onnx", "onnx", "engine", "engine", "model", "model", "model"]


def test_each_source_has_a_default(onnx_path, checkpoint, engine, trt):
    assert isinstance(open_runner(onnx_path, RunnerOptions(threads=1)), OnnxRunner)
    assert isinstance(open_runner(onnx_path, RunnerOptions(runtime="onnxruntime"), threads=1), OnnxRunner)
    assert isinstance(open_runner(checkpoint), TorchRunner)
    assert isinstance(open_runner(checkpoint, RunnerOptions("torch")), TorchRunner)
    assert isinstance(open_runner(engine), EngineRunner)
    assert isinstance(open_runner(engine, runtime="rtx", device="cuda"), EngineRunner)


def test_openvino_when_asked(onnx_path):
    pytest.importorskip("openvino")
    runner = open_runner(onnx_path, RunnerOptions("openvino", precision="f32", threads=1))
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
            "tensorrt runs no such file, onnxruntime or openvino does; build it with qvggt-build",
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
def test_options_of_an_onnx_file(onnx_path, options, message):
    with pytest.raises(QvggtError, match=message) as caught:
        open_runner(onnx_path, **options)
    assert "\n" not in str(caught.value)


def test_options_of_an_engine(engine, trt):
    with pytest.raises(QvggtError, match="an engine runs on an NVIDIA GPU only, got device cpu; give cuda"):
        open_runner(engine, device="cpu")
    with pytest.raises(QvggtError, match="onnxruntime runs no such file, tensorrt or rtx does; give its ONNX file"):
        open_runner(engine, runtime="onnxruntime")
    with pytest.raises(QvggtError, match="rtx has no use for providers"):
        open_runner(engine, providers=["cuda"])


def test_a_checkpoint_is_no_file_of_a_runtime(checkpoint):
    with pytest.raises(QvggtError, match="openvino runs no such file, torch does; export it first"):
        open_runner(checkpoint, runtime="openvino")


def test_every_option_is_somebodys():
    known = {field.name for field in dataclasses.fields(RunnerOptions)} - {"runtime"}
    assert set().union(*USES.values()) == known
    assert set(USES) == set(RUNTIMES)
