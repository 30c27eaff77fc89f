"""Session settings under which ONNX Runtime computes the numbers a file says; shared by every place that opens one."""

from __future__ import annotations

SESSION_CONFIG = {
    # AVX2 kernels without VNNI would saturate 16-bit sums of 8-bit products
    "session.x64quantprecision": "1",
    # fused 4-bit weight-only products would otherwise round activations to 8 bits on the way
    "session.qdq_matmulnbits_accuracy_level": "1",
}
