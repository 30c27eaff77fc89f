"""What the released QuantVGGT parameters can be put on, told without reading them."""

from __future__ import annotations

from qvggt.errors import QvggtError
from qvggt.formats.granularity import ROW
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import FORMATS
from qvggt.quant.scheme import Scheme

PART = "aggregator"


def check_scheme(scheme: Scheme) -> None:
    """QvggtError for a scheme that the released parameters cannot serve."""
    formats = [f for f in FORMATS.values() if isinstance(f, LinearFormat) and f.mode == "dynamic"]
    names = [format.bits for format in formats if format.weight.granularity == ROW]
    allowed = f"one of {', '.join(names)} with dynamic activations on the part {PART} alone"
    if scheme.bits not in names or scheme.activation != "dynamic" or scheme.parts != (PART,) or scheme.overrides:
        got = f"{scheme.bits} {scheme.activation} on {','.join(scheme.parts)}"
        got += f" with {len(scheme.overrides)} overrides" if scheme.overrides else ""
        raise QvggtError(f"QuantVGGT import: expected bits {allowed}, got {got}")
