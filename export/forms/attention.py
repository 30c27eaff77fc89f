"""Attention on codes: Q and DQ around both products, in the placement that TensorRT fuses (qvggt.formats.attention).

Codes are chosen in fp32, of the softmax output too. The scales behind them are exact in every float type, so that they
can stand inside of the products, where nothing may come between scores and softmax.
"""

from __future__ import annotations

from qvggt.export.forms.site import FP32, Site, exact_name, scalar
from qvggt.quant.attention import QuantAttention


def emit_products(site: Site, attention: QuantAttention, q: str, k: str, v: str) -> str:
    """q [N, heads, L, D], k [N, heads, D, L], v [N, heads, L, D], fp32 -> [N, heads, L, D] in the site's float type."""
    container = attention.format.grid.container

    def rounded(x: str, scale: float) -> str:
        value = scalar(scale)
        outer, zero = site.builder.constant(exact_name("step", value), value), site.zero(container)
        inner = site.builder.real(exact_name("exact", value), value, site.precision)
        return site.op("DequantizeLinear", [site.op("QuantizeLinear", [x, outer, zero]), inner, zero])

    q, k, v = (rounded(x, scale) for x, scale in zip((q, k, v), attention.scales.tolist(), strict=True))
    scores = site.cast(site.at(f"{site.path}.scores").op("MatMul", [q, k]), FP32)
    weights = rounded(site.op("Softmax", [scores], axis=-1), attention.format.probability_scale)
    return site.at(f"{site.path}.context").op("MatMul", [weights, v])
