"""Which form the product of a quantized linear takes: the first that says it takes the format."""

from __future__ import annotations

from collections.abc import Callable

from qvggt.errors import QvggtError
from qvggt.export.forms import block_product, code_product, weight_only
from qvggt.export.forms.site import Site
from qvggt.formats.linear_format import LinearFormat
from qvggt.quant.linear import QuantLinear

Takes = Callable[[LinearFormat], bool]
Emit = Callable[[Site, QuantLinear, str], str]
"""x [..., K] of any float type -> y [..., N] without the bias, in fp32 or in the site's float type."""

FORMS: list[tuple[Takes, Emit]] = [
    (weight_only.takes, weight_only.emit_weight_only),
    (code_product.takes, code_product.emit_code_product),
    (block_product.takes, block_product.emit_block_product),
]


def find_form(format: LinearFormat) -> Emit:
    """QvggtError for a format none of them takes."""
    for takes, emit in FORMS:
        if takes(format):
            return emit
    raise QvggtError(f"format {format.name}: cannot be exported, no form in ONNX is known for it")
