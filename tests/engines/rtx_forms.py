"""Small networks around one linear of each format, as the exporter emits it, and what they are checked with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import emit_linear
from qvggt.export.precision import Precision
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.quant.linear import QuantLinear
from qvggt.quant.scheme import parse_scheme
from qvggt.quant.transform import InputTransform, TransformSpec
from qvggt.target import Target

LINEAR = "aggregator.frame_blocks.0.mlp.fc1"
SHARED = "camera_head.trunk.0.mlp.fc1"


def module(bits: str, act: str, inner: int = 256, outer: int = 384) -> nn.Module:
    """A float or quantized linear of random weights."""
    format = find_format(bits, act)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(inner, outer)
    return QuantLinear.from_float(linear, format, 4.0) if isinstance(format, LinearFormat) else linear


def branched(linear: nn.Module, rank: int) -> nn.Module:
    """The same, with so many directions of its input that pass the grid by."""
    assert isinstance(linear, QuantLinear)
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(linear.in_features, rank, generator=generator))[0].contiguous()
    linear.transform = InputTransform(linear.in_features, TransformSpec(rank=rank))
    linear.transform.basis, linear.branch = basis, torch.randn(rank, linear.out_features, generator=generator)
    return linear


def write_network(
    path: Path,
    bits: str,
    act: str = "dynamic",
    precision: str = "fp16",
    inner: int = 256,
    outer: int = 384,
    uses: int = 1,
    target: Target = Target.TENSORRT,
    int8: bool = False,
    rank: int = 0,
) -> Path:
    """LayerNorm -> linear -> GELU on x [1, rows, inner] as an ONNX file for TensorRT; `uses` times in a row, with the
    same weights, as the camera head uses its trunk. int8: 4-bit codes are stored so. rank: of a branch."""
    builder = GraphBuilder(precision=Precision(precision), int8_storage=int8)
    x = builder.input("x", [1, "rows", inner])
    ones, linear = builder.constant("ones", np.ones(inner, np.float32)), module(bits, act, inner, outer)
    linear = branched(linear, rank) if rank else linear
    owner = LINEAR if uses == 1 else SHARED
    for use in range(uses):
        at = owner.replace("camera_head.", f"camera_head.iter.{use}.")
        x = builder.op("LayerNormalization", [builder.cast(x, Precision.FP32, f"{at}.norm"), ones], "norm", axis=-1)
        x = builder.op("Gelu", [emit_linear(builder, at, linear, x, target, owner)], "act")
    builder.output(x, "y", [1, "rows", outer])
    metadata = {
        "qvggt.scheme": parse_scheme(bits, act, ("aggregator", "camera")).to_json(),
        "qvggt.precision": precision,
    }
    path.write_bytes(builder.model("form", metadata, "test").SerializeToString())
    return path


def run_onnx(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime as ort

    from qvggt.export.emulation import session_options

    session = ort.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return result
