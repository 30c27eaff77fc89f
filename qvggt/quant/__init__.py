"""Quantization scheme, quantizers, fake-quant modules and the calibrated checkpoint."""

from qvggt.formats.linear_format import LinearFormat
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import quantize_, quantized_linears
from qvggt.quant.scheme import Scheme, parse_scheme

__all__ = ["LinearFormat", "QuantLinear", "Scheme", "parse_scheme", "quantize_", "quantized_linears"]
