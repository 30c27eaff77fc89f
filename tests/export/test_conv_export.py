"""Emission of quantized convolutions: integer kernels in ONNX Runtime, exact numbers, a gate that sees faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from small_network import SIZE, small_images, small_rounded

from qvggt.export.emulation import session_options
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.parity import check_convs, check_linears
from qvggt.export.precision import Precision
from qvggt.models.vggt.network import VGGT
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.network_facts import network_facts
from qvggt.quant.model import quantized_convs
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target

IMAGES = small_images(2)


Exported = Callable[..., tuple[VGGT, Path]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """(bits, target, precision) -> the model and its file, made once: tests that change the model copy it."""

    @cache
    def export(bits: str, target: Target = Target.CPU, precision: Precision = Precision.FP32) -> tuple[VGGT, Path]:
        scheme = parse_scheme(bits, "dynamic", ["dpt"])
        model, path = small_rounded(scheme, [IMAGES]), tmp_path_factory.mktemp("exported") / "m.onnx"
        config = ExportConfig(SIZE, SIZE, ("depth", "points"), target=target, precision=precision)
        export_onnx(model, scheme, config, path)
        return model, path

    return export


def test_onnxruntime_runs_every_convolution_in_integers(exported: Exported, tmp_path: Path) -> None:
    _, path = exported("w8a8")
    options = session_options()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert counts["QLinearConv"] == 60
    assert counts["Conv"] + counts["FusedConv"] == 5  # patches, and output_conv2 of each head
    assert counts["ConvTranspose"] == 0


@pytest.mark.parametrize(
    ("bits", "target", "precision"),
    [
        ("w8a8", Target.CPU, Precision.FP32),
        ("w4a8", Target.CPU, Precision.FP32),
        ("w8a8", Target.TENSORRT, Precision.FP32),
        ("w4a4", Target.TENSORRT, Precision.FP16),
        ("fp8", Target.TENSORRT, Precision.FP32),
        ("w4afp8", Target.TENSORRT, Precision.FP16),
    ],
)
def test_each_convolution_is_the_reference(exported: Exported, bits: str, target: Target, precision: Precision) -> None:
    model, path = exported(bits, target, precision)
    results = check_convs(path, model, IMAGES, progress=False)
    assert len(results) == 60
    assert all(results)
    assert sum(r.ties for r in results) < 1e-3 * sum(r.tokens for r in results)


@pytest.mark.parametrize(("bits", "precision"), [("fp8", Precision.FP32), ("w4afp8", Precision.FP16)])
def test_relus_before_fp8_convolutions_survive_onnxruntime(exported: Exported, bits: str, precision: Precision) -> None:
    """Its optimizer drops a ReLU right in front of an FP8 QuantizeLinear, which no convolution alone shows."""
    model, path = exported(bits, Target.TENSORRT, precision)
    with torch.no_grad():
        expected = model(IMAGES)["depth"].numpy()
    session = ort.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    got = session.run(["depth"], {"images": IMAGES[None].numpy()})[0]
    assert np.linalg.norm(got - expected) < 2e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("buffer", ["weight_scale", "bias", "act_amax", "out_amax", "codes"])
def test_the_gate_sees_a_fault(exported: Exported, buffer: str) -> None:
    model, path = deepcopy(exported("w8a8"))
    name = "depth_head.scratch.refinenet3.resConfUnit2.conv2"
    conv = dict(quantized_convs(model))[name]
    value = getattr(conv, buffer)
    value.copy_(value.flip(0) if buffer == "codes" else value * 1.05 + (0.1 if buffer == "bias" else 0.0))
    failed = [r.path for r in check_convs(path, model, IMAGES, progress=False) if not r]
    assert failed == [name]


def test_four_bit_weights_take_half_a_byte_for_tensorrt(exported: Exported) -> None:
    _, path = exported("w4a8", Target.TENSORRT)
    weights = [t for t in onnx.load(path).graph.initializer if t.name.endswith(".weight_codes")]
    assert len(weights) == 60
    assert {t.data_type for t in weights} == {onnx.TensorProto.INT4}


STEM = "aggregator.patch_embed.patch_embed.proj"


@pytest.mark.parametrize(("target", "precision"), [(Target.CPU, Precision.FP32), (Target.TENSORRT, Precision.FP16)])
def test_single_layers_are_stored_in_bytes_and_compute_the_reference(
    tmp_path: Path, target: Target, precision: Precision
) -> None:
    scheme = parse_scheme("w4a16", "dynamic", ["rest"])
    model = small_rounded(scheme)
    path = tmp_path / "m.onnx"
    export_onnx(model, scheme, ExportConfig(SIZE, SIZE, ("pose",), target=target, precision=precision), path)
    layers = [
        *check_convs(path, model, IMAGES, progress=False),
        *check_linears(path, model, IMAGES, progress=False, precision=precision),
    ]
    # the rotations are those of folded networks
    assert {layer.path for layer in layers} == {STEM, "camera_head.poseLN_modulation.1"}
    assert all(layers)
    stored = {t.name: t.data_type for t in onnx.load(path).graph.initializer}
    assert stored[f"{STEM}.weight_codes"] == onnx.TensorProto.INT8
    facts = network_facts(open_onnx(path))
    assert {linear.wanted for linear in facts.linears} == {"INT8 GEMM"}  # the convolution is computed in floats
