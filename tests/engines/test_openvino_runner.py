"""OpenVINO runner: the numbers of the fake-quant reference at the floors the ONNX Runtime gate has."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from small_network import SIZE, small_model, small_pixels, small_rounded

from qvggt import QvggtError
from qvggt.calib.rtn import quantize_rtn_
from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.engines import openvino_runner
from qvggt.engines.opening import open_runner
from qvggt.engines.openvino_runner import OpenVINORunner, import_openvino, reason
from qvggt.engines.torch_runner import TorchRunner
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.parity import check_outputs
from qvggt.hub.loading import load_model
from qvggt.quant.scheme import parse_scheme

pytest.importorskip("openvino")
BF16 = "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def runner(small_onnx):
    with OpenVINORunner(small_onnx, threads=1) as runner:
        yield runner


@pytest.fixture(scope="module")
def scenes():
    """Images [3, 3, 70, 70] of two held-out scenes."""
    config = SceneConfig(height=70, width=70, frames=3)
    views = (render(sample_scene(config, 20_000_000 + i), config) for i in range(2))
    return [torch.from_numpy(v.images).permute(0, 3, 1, 2).float() / 255 for v in views]


@pytest.mark.parametrize(
    ("bits", "activation"), [("w8a8", "dynamic"), ("w8a8", "static"), ("w4a4", "dynamic"), ("w4a16", "dynamic")]
)
def test_the_trained_model_passes_the_gates_floors(tmp_path, scenes, bits, activation):
    model, scheme = load_model("tiny", heads=("camera", "point", "depth")), parse_scheme(bits, activation)
    quantize_rtn_(model, scheme, scenes if activation == "static" else None)
    path = tmp_path / "m.onnx"
    export_onnx(model, scheme, ExportConfig(70, 70), path)
    with OpenVINORunner(path, threads=1) as runner:
        results = check_outputs(runner.run_named, model, scenes, scheme)
    assert len(results) == 5
    assert all(results), results
    if bits == "w8a8" and activation == "dynamic" and BF16:
        with OpenVINORunner(path, "bf16", 1) as runner:
            results = check_outputs(runner.run_named, model, scenes, scheme)
        assert min(result.sqnr_db for result in results) > 36, results  # bf16 rounds what the integers do not


def test_agrees_with_the_float_model_at_any_frame_count(small_float_onnx):
    model = small_model()
    with OpenVINORunner(small_float_onnx, threads=1) as runner:
        for frames in (1, 3, 2):
            expected = TorchRunner(model, "x")(small_pixels(frames)).named()
            for name, value in runner(small_pixels(frames)).named().items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-3 * np.abs(expected[name]).max())


def test_predictions_outlive_the_next_call(runner):
    first = runner(small_pixels(2))
    kept = {name: value.copy() for name, value in first.named().items()}
    runner(small_pixels(2) * 0.5)
    assert all(np.array_equal(kept[name], value) for name, value in first.named().items())


def test_describe(runner, small_onnx, scheme):
    facts = runner.describe()
    assert (runner.size, runner.frames) == ((SIZE, SIZE), None)
    assert (facts["kind"], facts["scheme"], facts["float_type"]) == ("openvino", scheme.label, "fp32")
    assert facts["label"] == "openvino f32 w8a8-dynamic small.onnx"
    assert facts["bytes"] == small_onnx.stat().st_size
    assert facts["providers"] == ["CPU"]
    assert facts["versions"]["openvino"]


def test_closing(small_onnx):
    runner = OpenVINORunner(small_onnx, threads=1)
    runner.close()
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner(small_pixels(1))


def test_external_data(small_quantized, scheme, runner, tmp_path):
    path = tmp_path / "big.onnx"
    export_onnx(small_quantized, scheme, ExportConfig(SIZE, SIZE, external_above=1000), path)
    with OpenVINORunner(path, threads=1) as other:
        assert [file.path for file in other.files] == [str(path), f"{path}.data"]
        assert np.array_equal(other(small_pixels(2)).pose_enc, runner(small_pixels(2)).pose_enc)


def test_what_it_cannot_convert_is_one_line_with_the_node(tmp_path):
    path, scheme = tmp_path / "m.onnx", parse_scheme("w4a16")
    export_onnx(small_rounded(scheme), scheme, ExportConfig(SIZE, SIZE), path)
    file = onnx.load(path)
    weight = next(n for n in file.graph.node if n.op_type == "DequantizeLinear" and "attn.qkv" in n.name)
    next(a for a in weight.attribute if a.name == "block_size").i = 7  # the 64 inputs are no whole number of blocks
    onnx.save(file, path)
    with pytest.raises(
        QvggtError, match=r"OpenVINO refuses it: aggregator\S+DequantizeLinear: Deq.*block_size"
    ) as caught:
        OpenVINORunner(path)
    assert "\n" not in str(caught.value)


def test_the_reason_of_an_exception_without_a_node():
    assert (
        reason(RuntimeError("Exception from src/a.cpp:1:\nCheck 'x' failed at b:\nout of memory\n")) == "out of memory"
    )
    assert reason(RuntimeError("Exception from src/a.cpp:1:")) == "Exception from src/a.cpp:1:"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "fp16"}, "precision 'fp16': OpenVINO runs f32 or bf16 here"),
        ({"threads": 0}, "threads: expected 1 or more, got 0"),
    ],
)
def test_arguments(small_onnx, arguments, message):
    with pytest.raises(QvggtError, match=message):
        OpenVINORunner(small_onnx, **arguments)


def test_a_precision_this_cpu_lacks(small_onnx, monkeypatch):
    monkeypatch.setitem(openvino_runner.PRECISIONS, "bf16", "SOMETHING")
    with pytest.raises(QvggtError, match="precision bf16: this CPU has no instructions for it; use f32"):
        OpenVINORunner(small_onnx, "bf16")


def test_a_missing_package_names_the_extra(small_onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # makes its import fail
    with pytest.raises(QvggtError, match=r"openvino is not installed: pip install '\.\[openvino\]'"):
        OpenVINORunner(small_onnx)


def test_unsafe_and_broken_files(small_onnx, tmp_path):
    cut = tmp_path / "cut.onnx"
    shutil.copy(small_onnx, cut)
    with open(cut, "r+b") as file:
        file.truncate(100_000)
    with pytest.raises(QvggtError, match=r"cut\.onnx: truncated or corrupt"):
        OpenVINORunner(cut)


def test_openvino_ir_is_the_same_network(small_onnx, runner, tmp_path):
    import openvino

    path = tmp_path / "m.xml"
    openvino.save_model(openvino.Core().read_model(small_onnx), path, compress_to_fp16=False)
    images = small_pixels(2)
    with open_runner(path, threads=1) as ir:  # .xml says which runtime
        assert isinstance(ir, OpenVINORunner)
        assert (ir.size, ir.frames, ir.outputs) == (runner.size, runner.frames, runner.outputs)
        facts = ir.describe()
        assert [file["path"].rpartition("/")[2] for file in facts["files"]] == ["m.xml", "m.bin"]
        assert facts["scheme"] == "unknown scheme"
        np.testing.assert_allclose(ir(images).pose_enc, runner(images).pose_enc, atol=1e-4)
    path.with_suffix(".bin").unlink()
    with pytest.raises(QvggtError, match=r"m\.bin: nothing there, expected OpenVINO IR"):
        OpenVINORunner(path)
    path.with_suffix(".bin").write_bytes(b"")
    path.write_text("<net/>")
    with pytest.raises(QvggtError) as caught:
        OpenVINORunner(path)
    assert "\n" not in str(caught.value)
