"""Quantization scheme, fake-quant modules and the calibrated checkpoint; the scheme is read without torch."""
