"""Low-bit VGGT: model, quantization scheme, fake quant, calibrated checkpoints."""

from qvggt.errors import QvggtError

__version__ = "0.1.0"
__all__ = ["QvggtError", "__version__"]
