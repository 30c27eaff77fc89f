"""Low-bit VGGT: calibrate, export to ONNX Q/DQ, build engines, and check the geometry that comes out.

From Python: `load`, `calibrate`, `quantize`, `export_onnx`, `lint`, `build`, `evaluate`, `reconstruct`, `deploy`,
`open_runner`, `load_images`, `decode_pose`, and the types `Model`, `Runner`, `Predictions`, `Scheme`. They are imported
when first used, so that `import qvggt` is quick; docs/api.md has one line about each.
"""

from typing import TYPE_CHECKING

from qvggt.errors import QvggtError
from qvggt.threads import wait_passively

__version__ = "0.1.0"

wait_passively()  # read by OpenMP when torch is loaded, which the first use of a name below does

if TYPE_CHECKING:  # what editors and type checkers see
    from qvggt.api import (
        build,
        calibrate,
        decode_pose,
        deploy,
        evaluate,
        export_onnx,
        lint,
        load,
        load_images,
        open_runner,
        quantize,
        reconstruct,
    )
    from qvggt.engines.runner import Runner
    from qvggt.predictions import Predictions
    from qvggt.quant.handle import Model
    from qvggt.quant.scheme import Scheme
else:
    _PLACES = {
        "Model": "qvggt.quant.handle",
        "Predictions": "qvggt.predictions",
        "Runner": "qvggt.engines.runner",
        "Scheme": "qvggt.quant.scheme",
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module 'qvggt' has no attribute {name!r}")
        return getattr(import_module(_PLACES.get(name, "qvggt.api")), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__} - {"TYPE_CHECKING", "wait_passively"})


__all__ = [
    "Model",
    "Predictions",
    "QvggtError",
    "Runner",
    "Scheme",
    "__version__",
    "build",
    "calibrate",
    "decode_pose",
    "deploy",
    "evaluate",
    "export_onnx",
    "lint",
    "load",
    "load_images",
    "open_runner",
    "quantize",
    "reconstruct",
]
