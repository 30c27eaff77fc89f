"""Fused attention: the numbers of the standard operators, in both CPU runtimes, and nowhere else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_network import SIZE, small_model, small_pixels, small_rounded

from qvggt import QvggtError
from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.engines.openvino_runner import OpenVINORunner
from qvggt.engines.torch_runner import TorchRunner
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.parity import check_linears
from qvggt.export.precision import Precision
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    path, model = tmp_path_factory.mktemp("fused") / "m.onnx", small_model()
    export_onnx(model, parse_scheme("fp32"), ExportConfig(SIZE, SIZE, fused_attention=True), path)
    return path, model


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_numbers_stay(fused, runtime):
    path, model = fused
    if runtime == "openvino":
        pytest.importorskip("openvino")
    with (OnnxRunner if runtime == "onnxruntime" else OpenVINORunner)(path, threads=1) as runner:
        for frames in (1, 3):
            expected = TorchRunner(model, "x")(small_pixels(frames)).named()
            for name, value in runner(small_pixels(frames)).named().items():
                bound = 1e-3 * np.abs(expected[name]).max()
                np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=bound)


def test_every_attention_is_one_operator(fused):
    path, model = fused
    proto = onnx.load(path)
    ops = [node.op_type for node in proto.graph.node]
    blocks = len(model.aggregator.patch_embed.blocks) + 2 * model.config.aa_depth
    assert ops.count("MultiHeadAttention") == blocks + model.config.camera_trunk_depth * model.config.camera_iters
    assert "Softmax" not in ops
    assert {o.domain for o in proto.opset_import} == {"", "com.microsoft"}
    assert {e.key: e.value for e in proto.metadata_props}["qvggt.attention"] == "com.microsoft.MultiHeadAttention"


def test_standard_operators_by_default(small_float_onnx):
    proto = onnx.load(small_float_onnx)
    assert [o.domain for o in proto.opset_import] == [""]
    assert "qvggt.attention" not in {e.key for e in proto.metadata_props}


def test_linears_around_it_pass_the_gate(tmp_path):
    import torch

    scheme = parse_scheme("w8a8")
    model = small_rounded(scheme)
    export_onnx(model, scheme, ExportConfig(SIZE, SIZE, fused_attention=True), tmp_path / "m.onnx")
    assert all(check_linears(tmp_path / "m.onnx", model, torch.from_numpy(small_pixels(2)), progress=False))


@pytest.mark.parametrize(
    "wrong", [{"target": Target.TENSORRT}, {"precision": Precision.FP16}], ids=["tensorrt", "half precision"]
)
def test_not_for_tensorrt(tmp_path, wrong):
    with pytest.raises(QvggtError, match="fused attention: is for --target cpu in fp32"):
        export_onnx(
            small_model(),
            parse_scheme("fp32"),
            ExportConfig(SIZE, SIZE, fused_attention=True, **wrong),
            tmp_path / "m.onnx",
        )
    assert not list(tmp_path.iterdir())
