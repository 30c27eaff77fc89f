"""Why half-precision networks: TensorRT-RTX then fuses attention. Plans only, nothing is run on a GPU.

The kernels of quantized linears are checked in tests/engines/test_build_forms.py and test_build_tiny.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from slice_1b import OUTPUTS, SIZE, slice_1b

from qvggt.calib.rtn import quantize_rtn_
from qvggt.engines.build_config import BuildConfig
from qvggt.engines.builder import build_engine, read_source
from qvggt.engines.layer_report import LayerReport
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.precision import Precision
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install '.[rtx]' in the clone")


def report(bits: str, precision: str, folder: Path) -> LayerReport:
    model, scheme = slice_1b(embed_dim=256, num_heads=4), parse_scheme(bits)
    quantize_rtn_(model, scheme, progress=False)
    config = ExportConfig(SIZE, SIZE, OUTPUTS, target=Target.TENSORRT, precision=Precision(precision))
    export_onnx(model, scheme, config, folder / "m.onnx")
    build = BuildConfig(compute_capabilities=("8.9",))
    return build_engine(read_source(folder / "m.onnx"), folder / "m.engine", build, shown=False).report


@pytest.mark.parametrize(
    ("bits", "precision", "fused"), [("fp16", "fp16", 3), ("bf16", "bf16", 3), ("fp32", "fp32", 0)]
)
def test_attention_is_one_kernel_in_half_precision(bits: str, precision: str, fused: int, tmp_path: Path) -> None:
    """The reason for a half-precision network: in fp32 every attention stores its scores."""
    found = report(bits, precision, tmp_path)
    assert (found.fused_attentions, found.attentions) == (fused, 3)
