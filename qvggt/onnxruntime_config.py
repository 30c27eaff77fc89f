"""Session settings under which ONNX Runtime computes the numbers a file says; shared by every place that opens one."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

import numpy as np

from qvggt.errors import QvggtError

WIDE_8_BIT = "session.x64quantprecision"
SESSION_CONFIG = {
    # fused 4-bit weight-only products would otherwise round activations to 8 bits on the way
    "session.qdq_matmulnbits_accuracy_level": "1",
}
# y[m, 32] int32 = MatMulInteger(a[m, 64] uint8, 127 everywhere), opset 13; its source is in tests/
PROBE = base64.b64decode(
    "CAgSADp9ChUKAXcKBXNoYXBlEgFiIgZFeHBhbmQKGAoBYQoBYhIBeSINTWF0TXVsSW50ZWdlchIBZyoKCAEQAyoBf0IBdyoPCAIQBzoCQCBC"
    "BXNoYXBlWhQKAWESDwoNCAISCQoDEgFtCgIIQGIUCgF5Eg8KDQgGEgkKAxIBbQoCCCBCBAoAEA0="
)
PROBE_INPUTS = 64


def session_options(ort: Any, threads: int | None = None) -> Any:
    """Options under which ONNX Runtime computes the numbers the file says."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: they come back as exceptions
    for key, value in session_config(ort).items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        if threads < 1:
            raise QvggtError(f"threads: expected 1 or more, got {threads}")
        options.intra_op_num_threads = threads
    return options


def session_config(ort: Any) -> dict[str, str]:
    """Settings for sessions of the onnxruntime module `ort` on this CPU.

    Its 8-bit kernels for AVX2 add pairs of products in 16 bits and saturate; the setting that avoids them costs a
    factor of two. CPUs with VNNI instructions need no such kernels, so the setting is used only where a product of
    the largest codes comes out wrong without it.
    """
    return SESSION_CONFIG | ({} if exact_by_default(ort) else {WIDE_8_BIT: "1"})


@cache
def exact_by_default(ort: Any) -> bool:
    """Whether products of the largest 8-bit codes are exact with default settings, for one row and for many."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(PROBE, options, providers=["CPUExecutionProvider"])
    products = (session.run(None, {"a": np.full((rows, PROBE_INPUTS), 255, np.uint8)})[0] for rows in (1, 5, 64))
    return all(bool((product == PROBE_INPUTS * 255 * 127).all()) for product in products)
