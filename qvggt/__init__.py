"""Low-bit VGGT: model, quantization scheme, fake quant, calibrated checkpoints.

From Python: `load`, `quantize`, `export`, `open_runner`, `load_images`, `decode_pose`, `Model`, `Runner`,
`Predictions`, `Scheme`. They are looked up when first used, so that `import qvggt` is quick and knows no other room.
"""

from importlib import import_module
from typing import Any

from qvggt.errors import QvggtError

__version__ = "0.1.0"
__all__ = ["QvggtError", "__version__"]

# attribute -> module it comes from; "export" is a package that can be called
PUBLIC = {
    **dict.fromkeys(("Model", "Scheme", "decode_pose", "load", "load_images", "open_runner", "quantize"), "qvggt.api"),
    "Predictions": "qvggt.predictions",
    "Runner": "qvggt.engines.runner",
    "export": "qvggt.export",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'qvggt' has no attribute {name!r}")
    module = import_module(PUBLIC[name])
    return module if module.__name__ == f"qvggt.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
