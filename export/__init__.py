"""Checkpoint -> ONNX Q/DQ, lint, parity. `qvggt.export(model, path)` works: see `calling.export`."""

import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """This package, which runs `qvggt.export.calling.export` when called."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from qvggt.export.calling import export

        return export(*args, **options)


sys.modules[__name__].__class__ = CallableModule
