"""One linear of an exported file, run by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from qvggt import onnxruntime_config
from qvggt.export.emulation import rounded_copy
from qvggt.onnx_view.cut import Cut


def run_cut(cut: Cut, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x [rows, K] -> y [rows, N]; of a convolution one map [C, H, W] -> [N, H', W']."""
    import onnxruntime as ort

    model = rounded_copy(cut.model, (TensorProto.BFLOAT16,))
    session = ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {cut.input: x[None]})[0][0]
    return result


def session_options() -> Any:
    """Options under which ONNX Runtime computes the numbers the file says."""
    import onnxruntime as ort

    return onnxruntime_config.session_options(ort)
