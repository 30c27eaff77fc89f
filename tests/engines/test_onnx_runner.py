"""ONNX Runtime runner: the numbers of the fake-quant reference, and a clear line for every wrong file."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_network import SIZE, small_model, small_pixels

from qvggt import QvggtError, onnxruntime_config
from qvggt.engines.onnx_runner import TENSORRT, OnnxRunner, import_onnxruntime, placement, session_options
from qvggt.engines.opening import open_runner
from qvggt.engines.torch_runner import TorchRunner
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.onnxruntime_config import exact_by_default


@pytest.fixture(scope="module")
def runner(small_onnx):
    with OnnxRunner(small_onnx, threads=1) as runner:
        yield runner


def sqnr(expected, got):
    return {
        n: 10 * np.log10(np.square(expected[n]).sum() / np.square(got[n] - expected[n]).sum()) for n in expected | got
    }


@pytest.mark.parametrize("frames", [1, 3])
def test_agrees_with_the_float_model(small_float_onnx, frames):
    images = small_pixels(frames)
    expected = TorchRunner(small_model(), "x")(images).named()
    with OnnxRunner(small_float_onnx, threads=1) as runner:
        assert min(sqnr(expected, runner(images).named()).values()) > 80


def test_agrees_with_the_fake_quant_model(runner, small_quantized):
    """Float noise flips a few roundings, and random weights amplify them: the export's own gate is the strict one."""
    images = small_pixels(2)
    expected = TorchRunner(small_quantized, "x")(images).named()
    assert min(sqnr(expected, runner(images).named()).values()) > 30


def test_named_outputs_are_those_of_the_graph(runner):
    shapes = {name: value.shape for name, value in runner.run_named(small_pixels(2)).items()}
    assert shapes["depth"] == (1, 2, SIZE, SIZE, 1)
    assert shapes["pose_enc"] == (1, 2, 9)


def test_describe(runner, small_onnx, scheme):
    facts = runner.describe()
    assert runner.size == (SIZE, SIZE)
    assert runner.frames is None
    assert facts["size"] == [SIZE, SIZE]
    assert facts["scheme"] == scheme.label
    assert facts["scheme_json"] == {**scheme.to_dict()}
    assert facts["providers"] == ["CPUExecutionProvider"]
    assert facts["bytes"] == small_onnx.stat().st_size
    assert facts["metadata"]["qvggt.size"] == f"{SIZE}x{SIZE}"
    assert facts["label"] == "onnxruntime w8a8-dynamic small.onnx"
    assert {"onnxruntime", "qvggt", "numpy"} <= set(facts["versions"])


def test_wrong_size_is_one_line(runner):
    with pytest.raises(QvggtError, match=f"expected images of {SIZE}x{SIZE}") as caught:
        runner(np.zeros((2, 3, 28, 28), np.float32))
    assert "\n" not in str(caught.value)


def test_closing_frees_the_session(small_onnx):
    runner = open_runner(small_onnx, threads=1)
    assert isinstance(runner, OnnxRunner)
    runner.close()
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner(small_pixels(1))


def test_external_data(small_quantized, scheme, runner, tmp_path):
    path = tmp_path / "big.onnx"
    export_onnx(small_quantized, scheme, ExportConfig(SIZE, SIZE, external_above=1000), path)
    images = small_pixels(2)
    with OnnxRunner(path, threads=1) as other:
        assert [file.path for file in other.files] == [str(path), f"{path}.data"]
        assert np.array_equal(other(images).pose_enc, runner(images).pose_enc)
    with open(f"{path}.data", "r+b") as file:
        file.truncate(5000)
    with pytest.raises(QvggtError, match="truncated"):
        OnnxRunner(path)


@pytest.mark.parametrize("exact", [True, False])
def test_exact_8_bit_kernels_are_asked_for(monkeypatch, exact):
    monkeypatch.setattr(onnxruntime_config, "exact_by_default", lambda ort: exact)
    options = session_options(import_onnxruntime(), 3)
    if exact:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.x64quantprecision")
    else:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    assert options.get_session_config_entry("session.qdq_matmulnbits_accuracy_level") == "1"
    assert options.intra_op_num_threads == 3


def test_a_missing_provider_is_named(small_onnx):
    with pytest.raises(QvggtError, match=r"TensorrtExecutionProvider: not in this onnxruntime.*uninstall onnx"):
        OnnxRunner(small_onnx, ["TensorrtExecutionProvider"])
    with pytest.raises(QvggtError, match="threads: expected 1 or more"):
        OnnxRunner(small_onnx, threads=0)


def test_a_missing_onnxruntime_names_the_packages(small_onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # makes its import fail
    with pytest.raises(QvggtError, match="not installed: pip install onnxruntime, or onnxruntime-gpu"):
        OnnxRunner(small_onnx)


def test_truncated_file(small_onnx, tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(small_onnx.read_bytes()[:100_000])
    with pytest.raises(QvggtError, match=r"cut\.onnx") as caught:
        OnnxRunner(path)
    assert "\n" not in str(caught.value)


def edit(small_onnx, tmp_path, key, value):
    """A copy whose metadata entry is changed, or removed with None."""
    model = onnx.load(small_onnx)
    entries = {entry.key: entry.value for entry in model.metadata_props if entry.key != key}
    del model.metadata_props[:]
    helper.set_model_props(model, entries if value is None else {**entries, key: value})
    path = tmp_path / "edited.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("qvggt.size", "70x70", f"qvggt.size '70x70', but the input is {SIZE}x{SIZE}"),
        ("qvggt.scheme", "{}", "metadata qvggt.scheme"),
        ("qvggt.scheme", '{"bits": "w3a3"}', "metadata qvggt.scheme: unknown bits 'w3a3'"),
        ("qvggt.source", "{", "metadata qvggt.source is no JSON"),
        ("qvggt.config", "[]", "metadata qvggt.config is a list, expected a JSON object"),
        ("qvggt.linears", '{"m": 8}', "metadata qvggt.linears: expected the name of a format"),
    ],
)
def test_metadata_must_be_true(small_onnx, tmp_path, key, value, message):
    with pytest.raises(QvggtError, match=message):
        OnnxRunner(edit(small_onnx, tmp_path, key, value))


def test_metadata_may_lack(small_onnx, tmp_path):
    runner = OnnxRunner(edit(small_onnx, tmp_path, "qvggt.scheme", None))
    assert runner.describe()["scheme"] == "w8a8-dynamic (graph)"  # what the graph shows


def interface(
    path, name="images", kind=TensorProto.FLOAT, shape=(1, "S", 3, 14, 14), output="pose_enc", out=(1, "S", 9)
):
    """A graph that returns zeros of the shape of poses, with a chosen interface."""
    x = helper.make_tensor_value_info(name, kind, shape)
    y = helper.make_tensor_value_info(output, TensorProto.FLOAT, out)
    # one frame is what the zeros have, so other counts must be caught when it runs
    value = helper.make_tensor("v", TensorProto.FLOAT, (1, 1, 9), [0.0] * 9)
    nodes = [helper.make_node("Constant", [], [output], value=value)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "pixels"}, "has inputs pixels, expected one input images"),
        ({"kind": TensorProto.FLOAT16}, "input images has type FLOAT16"),
        ({"shape": ("S", 3, 14, 14)}, r"input images has shape \[\?, 3, 14, 14\]"),
        ({"shape": (1, "S", 14, 14, 3)}, "input images has shape"),
        ({"shape": (2, "S", 3, 14, 14)}, "input images has shape"),
        ({"shape": (1, "S", 3, 14, "W")}, "fixes only one of H and W"),
        ({"output": "logits"}, "has outputs logits, expected some of pose_enc"),
        ({"out": ("S", 9)}, r"output pose_enc has shape \[\?, 9\], expected \[1, S, 9\]"),
    ],
)
def test_other_interfaces_are_refused(tmp_path, change, message):
    with pytest.raises(QvggtError, match=message):
        OnnxRunner(interface(tmp_path / "m.onnx", **change))


def test_a_bare_graph_runs_and_says_what_it_lacks(tmp_path):
    runner = OnnxRunner(interface(tmp_path / "m.onnx", shape=(1, "S", 3, "H", "W")))
    assert runner.size is None
    assert runner(np.zeros((1, 3, 14, 14), np.float32)).pose_enc.shape == (1, 9)
    assert runner.describe()["metadata"].startswith("none: not written by qvggt export")
    with pytest.raises(QvggtError, match="output pose_enc: expected shape"):
        runner(np.zeros((2, 3, 14, 14), np.float32))


def test_fixed_frame_count(tmp_path):
    runner = OnnxRunner(interface(tmp_path / "m.onnx", shape=(1, 1, 3, 14, 14)))
    assert (runner.frames, runner.size) == (1, (14, 14))
    with pytest.raises(QvggtError, match="expected 1 frames, got 2"):
        runner(np.zeros((2, 3, 14, 14), np.float32))


class Placed:
    """A session whose first provider is `first`, with `op` left to the CPU."""

    def __init__(self, first, op="Shape"):
        self.first, self.op = first, op

    def __call__(self, path, options, providers):
        self.given = providers
        return self

    def get_providers(self):
        return [self.first, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self):
        return [
            Part(self.first, "MatMul"),
            Part("CPUExecutionProvider", self.op),
            Part("CPUExecutionProvider", "Shape"),
        ]

    def disable_fallback(self):
        pass


class Part:
    def __init__(self, provider, op):
        self.ep_name, self.op_type = provider, op

    def get_nodes(self):
        return [self]


@pytest.fixture
def gpu_build(monkeypatch):
    """An onnxruntime that claims the NVIDIA providers; `session` decides what comes of it."""
    ort = import_onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(TENSORRT))
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)

    def use(session):
        monkeypatch.setattr(ort, "InferenceSession", session)
        return session

    exact_by_default(ort)  # its own session is a real one
    return use


def test_a_provider_that_does_not_start_is_no_silent_fallback(small_onnx, gpu_build):
    gpu_build(Placed("CPUExecutionProvider"))
    with pytest.raises(QvggtError, match="CUDAExecutionProvider: could not start, only CPUExecutionProvider") as caught:
        open_runner(small_onnx, device="cuda")
    assert "\n" not in str(caught.value)


def test_products_left_to_the_cpu_are_no_silent_fallback(small_onnx, gpu_build):
    gpu_build(Placed("CUDAExecutionProvider", "MatMul"))
    with pytest.raises(QvggtError, match="CUDAExecutionProvider takes not all of it, left to the CPU: 1 MatMul"):
        open_runner(small_onnx, device="cuda")
    gpu_build(Placed("CUDAExecutionProvider"))
    runner = open_runner(small_onnx, device="cuda:0")
    assert runner.label == "onnxruntime cuda w8a8-dynamic small.onnx"
    assert runner.describe()["placement"] == {"CUDAExecutionProvider": 1, "CPUExecutionProvider": 2}


def test_tensorrt_gets_the_range_of_frames(small_onnx, gpu_build):
    session = gpu_build(Placed("TensorrtExecutionProvider"))
    runner = open_runner(small_onnx, providers=["tensorrt"])
    (name, options), *rest = session.given
    assert [name, *(n for n, _ in rest)] == list(TENSORRT)
    assert options["trt_profile_min_shapes"] == f"images:1x1x3x{SIZE}x{SIZE}"
    assert options["trt_profile_max_shapes"] == f"images:1x32x3x{SIZE}x{SIZE}"
    assert runner.label.startswith("onnxruntime tensorrt ")
    OnnxRunner(small_onnx, TENSORRT, provider_options={TENSORRT[0]: {"trt_fp16_enable": "0"}})
    assert session.given[0][1]["trt_fp16_enable"] == "0"


def test_placement_here(runner):
    placed = runner.describe()["placement"]
    assert list(placed) == ["CPUExecutionProvider"]
    assert placed["CPUExecutionProvider"] > 100
    assert placement(object()) is None  # an older onnxruntime


def test_dispatch_by_suffix(small_onnx, tmp_path):
    upper = tmp_path / "M.ONNX"
    shutil.copy(small_onnx, upper)
    assert isinstance(open_runner(upper), OnnxRunner)
    with pytest.raises(QvggtError, match="set CUDA_VISIBLE_DEVICES"):
        open_runner(small_onnx, device="cuda:1")
    with pytest.raises(QvggtError, match="no such file"):
        open_runner(str(tmp_path / "nothing.pt"))
