"""Where the bytes of initializers go: inside the model, or streamed into one external data file beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from qvggt.errors import QvggtError
from qvggt.files import atomic_write, sibling, sync
from qvggt.formats.packing import pack_halves

EXTERNAL_ABOVE = 500_000_000  # bytes: a protobuf ends at 2 GiB, and is held four times over while it is checked
ALIGNMENT = 4096  # so that a runtime can map tensors; Windows wants 64 KiB only for the file's start
SMALL = 1024  # bytes: shorter tensors stay in the model even when the rest is external
FOUR_BITS = (TensorProto.INT4, TensorProto.FLOAT4E2M1)


class Storage:
    """Turns arrays into TensorProtos; `data` is the open external file, None to keep everything inline."""

    def __init__(self, data: IO[bytes] | None = None, location: str = "") -> None:
        self.data, self.location, self.offset = data, location, 0

    def tensor(self, name: str, array: NDArray[np.generic]) -> TensorProto:
        """A named initializer of the array's type, those of ml_dtypes included; of 4-bit types two values a byte."""
        data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        proto = TensorProto(name=name, dims=list(array.shape), data_type=data_type)
        array = np.ascontiguousarray(array)
        payload = (pack_halves(array.view(np.uint8)) if data_type in FOUR_BITS else array).tobytes()
        if self.data is None or len(payload) < SMALL:
            proto.raw_data = payload
            return proto
        gap = -self.offset % ALIGNMENT
        self.data.write(b"\0" * gap)
        self.offset += gap
        self.data.write(payload)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", self.offset), ("length", len(payload))):
            proto.external_data.add(key=key, value=str(value))
        self.offset += len(payload)
        return proto


@contextmanager
def model_files(path: Path, external: bool) -> Iterator[tuple[Storage, Path]]:
    """Yield (storage, path to write the model to); on success the model, and its data file, are moved into place.

    Both are written under their final names into a hidden folder beside `path`, so that the pair can be opened and
    checked before anyone sees it (flush `storage.data` first). The data file is `<name>.data` and is moved first; an
    old model is deleted before, since with new data it would load and compute nonsense. On failure nothing is left.
    """
    if path.suffix != ".onnx":
        raise QvggtError(f"{path}: expected a file name ending in .onnx")
    data_path = path.with_name(path.name + ".data")
    with atomic_write(path) as model_slot, staging(path) as folder:
        if not external:
            yield Storage(), folder / path.name
        else:
            with atomic_write(data_path) as data_slot:
                with open(folder / data_path.name, "wb") as stream:
                    yield Storage(stream, data_path.name), folder / path.name
                os.replace(folder / data_path.name, data_slot)
                sync(data_slot)
                path.unlink(missing_ok=True)
        os.replace(folder / path.name, model_slot)
    if not external:
        data_path.unlink(missing_ok=True)  # of an earlier export under the same name


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """An empty hidden folder beside `path`, gone at the end of the block."""
    folder = sibling(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
