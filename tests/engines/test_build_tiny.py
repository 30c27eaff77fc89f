"""The shipped tiny model and a slice of the large one, built by TensorRT-RTX with dynamic frame counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from qvggt.calib.rtn import quantize_rtn_
from qvggt.engines.build_config import BuildConfig
from qvggt.engines.builder import BuildResult, build_engine, read_source
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.precision import Precision
from qvggt.hub.loading import load_model
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.quant.scheme import DEFAULT_PARTS, parse_scheme
from qvggt.target import Target

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install '.[rtx]' in the clone")

FRAMES = (1, 4, 8)
NARROW = VGGTConfig(
    img_size=70,
    embed_dim=128,
    num_heads=2,
    vit_depth=1,
    aa_depth=1,
    camera_trunk_depth=1,
    camera_num_heads=4,
    camera_iters=1,
    dpt_layers=(0,) * 4,
    heads=("camera",),
)
WIDE = VGGTConfig(vit_depth=1, aa_depth=1, camera_trunk_depth=1, camera_iters=1, dpt_layers=(0,) * 4, heads=("camera",))


def build(
    model: VGGT,
    bits: str,
    act: str,
    outputs: tuple[str, ...],
    folder: Path,
    size: int = 70,
    parts: Sequence[str] = DEFAULT_PARTS,
) -> BuildResult:
    scheme = parse_scheme(bits, act, parts)
    images = torch.rand(1, 2, 3, size, size, generator=torch.Generator().manual_seed(0))
    quantize_rtn_(model, scheme, [images[0]] if scheme.needs_ranges else None, 1 if scheme.needs_ranges else None)
    config = ExportConfig(size, size, outputs, FRAMES, Target.TENSORRT, Precision.FP16)
    export_onnx(model, scheme, config, folder / "m.onnx")
    generations = {"fp8": ("8.9", "12.0"), "nvfp4": ("12.0",)}.get(bits, ("8.6", "8.9", "12.0"))
    capabilities = BuildConfig(compute_capabilities=generations, precision="fp16")
    return build_engine(read_source(folder / "m.onnx"), folder / "m.engine", capabilities, shown=False)


@pytest.mark.parametrize(
    ("bits", "outputs"),
    [
        ("w4a4", ("depth",)),
        pytest.param("w8a8", ("pose", "depth", "points"), marks=pytest.mark.slow),
        pytest.param("w4a4", ("pose", "depth", "points"), marks=pytest.mark.slow),
        pytest.param("w4a16", ("pose",), marks=pytest.mark.slow),
        pytest.param("fp8", ("pose", "depth", "points"), marks=pytest.mark.slow),
        pytest.param("nvfp4", ("pose", "depth", "points"), marks=pytest.mark.slow),
    ],
)
def test_tiny_model(bits: str, outputs: tuple[str, ...], tmp_path: Path) -> None:
    result = build(load_model("tiny"), bits, "dynamic", outputs, tmp_path)
    report = result.report
    kernel = {"w4a16": "INT4 weight-only", "fp8": "FP8 GEMM", "nvfp4": "FP4 GEMM"}.get(bits, "INT8 GEMM")
    stored = {"w8a8": "Int8", "fp8": "FP8", "nvfp4": "FP4"}.get(bits, "Int4")
    assert report.summary.startswith(f"40/40 linears {kernel}, weights stored as {stored}")
    assert report.fused_attentions == 10  # all but those of the camera head, which is fp32
    assert report.attentions == (18 if "pose" in outputs else 10)
    assert [shape[1] for shape in result.manifest.profile["images"]] == list(FRAMES)
    assert result.manifest.precision == "fp16"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "linears", "convolutions"),
    [
        (
            "w4a4",
            "48/48 linears INT8 GEMM, weights stored as Int4 (0.50 bytes each)",
            "30/30 convolutions INT8 conv, weights stored as Int4 (0.50 bytes each)",
        ),
        (
            "fp8",
            "48/48 linears FP8 GEMM, weights stored as FP8 (1.00 bytes each)",
            "30/30 convolutions FP8 conv, weights stored as FP8 (1.00 bytes each)",
        ),
    ],
)
def test_every_part_of_the_tiny_model(bits: str, linears: str, convolutions: str, tmp_path: Path) -> None:
    """The camera head's linears, used four times, and the convolutions of the dense heads too."""
    parts = ("dino", "aggregator", "camera", "dpt")
    result = build(load_model("tiny"), bits, "dynamic", ("pose", "depth"), tmp_path, parts=parts)
    assert result.report.summary.startswith(f"{linears}; {convolutions}; ")


FORMS = [
    ("w8a8", "static", "INT8 GEMM"),
    ("w8a8", "dynamic", "INT8 GEMM"),
    ("w4a8", "dynamic", "INT8 GEMM"),
    ("w4a4", "dynamic", "INT8 GEMM"),
    ("w4a4", "static", "INT4 GEMM"),
    ("w4a16", "dynamic", "INT4 weight-only"),
    ("fp16", "dynamic", ""),
]


def check_slice(config: VGGTConfig, bits: str, act: str, kernel: str, folder: Path, size: int) -> None:
    torch.manual_seed(0)
    report = build(VGGT(config).requires_grad_(False).eval(), bits, act, ("pose",), folder, size).report
    assert report.passed
    assert report.fused_attentions == 3
    if kernel:
        assert report.summary.startswith(f"12/12 linears {kernel}")


@pytest.mark.parametrize(("bits", "act", "kernel"), [FORMS[0], FORMS[4]])
def test_static_activations_in_a_whole_network(bits: str, act: str, kernel: str, tmp_path: Path) -> None:
    """INT4 quantization fused with an indexed table did not build: the special tokens are copied instead."""
    check_slice(NARROW, bits, act, kernel, tmp_path, size=70)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "act", "kernel"), FORMS)
def test_slice_of_the_large_model(bits: str, act: str, kernel: str, tmp_path: Path) -> None:
    """One DINO block and one round (a frame and a global block) at the width of VGGT-1B."""
    check_slice(WIDE, bits, act, kernel, tmp_path, size=140)
