"""Kernels TensorRT-RTX compiled for one engine on one card, kept on disk, so that they are compiled once.

They lie in the user's own cache folder and not beside the engine: they are code for the GPU, and whoever may write the
folder of an engine should not be able to hand it to others.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from qvggt.errors import QvggtError
from qvggt.files import atomic_write, reason

VARIABLE = "QVGGT_CACHE"
NONE = "none"
MAGIC = b"qvggt-rtx-kernels 1 "


@dataclass(frozen=True)
class KernelCache:
    """A file: a line with the SHA-256 of the rest, so that a torn one never reaches native code."""

    path: Path

    def read(self) -> bytes | None:
        """What was kept, None where nothing was; QvggtError for a file that is damaged."""
        try:
            head, _, blob = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise QvggtError(f"{self.path}: cannot be read ({reason(error)})") from error
        if head != MAGIC + hashlib.sha256(blob).hexdigest().encode():
            raise QvggtError(f"{self.path}: is damaged")
        return blob

    def write(self, blob: bytes) -> None:
        """Keep `blob`; QvggtError where the folder does not take it."""
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(MAGIC + hashlib.sha256(blob).hexdigest().encode() + b"\n" + blob)


def kernel_cache(engine_sha256: str, gpu: str, runtime: str) -> KernelCache | None:
    """That of an engine on a card by name, with the runtime's version and this machine's driver; None where
    $QVGGT_CACHE is "none"."""
    folder = cache_folder()
    if folder is None:
        return None
    place = "-".join((gpu, driver_version(), runtime))
    return KernelCache(folder / "rtx" / f"{engine_sha256[:16]}-{re.sub(r'[^A-Za-z0-9.]+', '-', place)}.kernels")


def cache_folder() -> Path | None:
    """$QVGGT_CACHE, else qvggt in the user's cache folder; None where that variable is "none"."""
    named = os.environ.get(VARIABLE)
    if named:
        return None if named == NONE else Path(named)
    home = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "qvggt"


def driver_version() -> str:
    """Version of CUDA that the driver has, such as "12080"; "unknown" where it does not say."""
    number = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        failed = driver.cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return "unknown"
    return "unknown" if failed else str(number.value)
