"""The TensorRT package an engine belongs to, and its logger: these packages take one logger per process."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from qvggt.errors import QvggtError

MODULES = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt", "trtexec": "tensorrt"}
EXTRAS = {"tensorrt_rtx": "rtx", "tensorrt": "gpu"}


def import_tensorrt(backend: str) -> Any:
    """The module that runs engines of this backend of the builder; QvggtError names what to install."""
    name = MODULES[backend]
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # OSError: the package is there, a library of the driver is not
        found = "" if isinstance(error, ModuleNotFoundError) and error.name == name else f" ({error})"
        raise QvggtError(
            f"{name} is needed to run {backend} engines and cannot be imported{found}: "
            f"pip install '.[{EXTRAS[name]}]' in the clone"
        ) from error


@cache
def logger_of(trt: Any) -> Any:
    """The logger of a TensorRT module; `last` is the last error it was told since `clear`, in one line, else None."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last: str | None = None

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(message.split())[:300]

        def clear(self) -> None:
            self.last = None

    return Log()
