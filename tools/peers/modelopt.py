"""NVIDIA ModelOpt's ONNX quantizer: files for TensorRT."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from peers.adapter import Peer, Request, Variant


def quantize(request: Request, mode: str, method: str | None) -> None:
    import numpy as np
    from modelopt.onnx.quantization import quantize

    shapes = {array.shape for array in request.arrays()}
    assert len(shapes) == 1, "ModelOpt takes one array of equal sequences"
    options: dict[str, Any] = {}
    if request.nodes is not None:
        options["nodes_to_exclude"] = [f"^{re.escape(name)}$" for name in request.others]
    quantize(
        request.model, quantize_mode=mode, calibration_data={request.input: np.concatenate(request.arrays())},
        calibration_method=method, calibration_eps=["cpu"], output_path=request.output, high_precision_dtype="fp32",
        calibration_shapes=f"{request.input}:{'x'.join(map(str, next(iter(shapes))))}", log_level="WARNING", **options,
    )  # fmt: skip


PEER = Peer(
    "modelopt",
    "modelopt",
    "nvidia-modelopt",
    (
        Variant("int8 entropy", "w8a8", partial(quantize, mode="int8", method="entropy")),
        Variant("int8 max", "w8a8", partial(quantize, mode="int8", method="max")),
        Variant("int4 awq_lite", "w4a16", partial(quantize, mode="int4", method="awq_lite")),
    ),
)
