"""Values of stored tensors, read one at a time and only when a rule asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from qvggt.errors import QvggtError
from qvggt.onnx_view.external_data import DataFolder, Fault, Span, check_spans, described, external_tensors

CHUNK = 16 << 20  # bytes
OUTLINE = "qvggt:outline"  # location of the stand-in for a large initializer


class Values:
    """The initializers of a model by name, and their bytes wherever they lie.

    Bytes outside of the model are read only for tensors whose place passed `qvggt.onnx_view.external_data`.
    """

    def __init__(self, proto: ModelProto, path: Path | None) -> None:
        self.stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.folder = None if path is None else DataFolder(path)
        outside = [described(tensor) for tensor in external_tensors(proto)]
        self.spans: list[Span] = []
        self.faults: list[Fault] = []
        if path is not None:
            self.spans, self.faults = check_spans(path, outside)
        elif outside:
            error = QvggtError("a model in memory cannot have its data checked; pass the path of the file")
            self.faults = [(tensor.name, error) for tensor in outside]
        self._unsafe = {name for name, _ in self.faults}

    def array(self, tensor: TensorProto) -> NDArray[Any] | None:
        """A whole tensor as numpy; None when its bytes are missing, unsafe or do not fit its shape."""
        whole = self.whole(tensor)
        try:
            return None if whole is None else numpy_helper.to_array(whole)
        except (TypeError, ValueError, KeyError, OverflowError):  # bytes and shape disagree, or a type numpy lacks
            return None

    def largest_int8(self, tensor: TensorProto) -> int | None:
        """The largest magnitude of an INT8 tensor, read in pieces."""
        tensor = self._stored(tensor)
        if tensor.data_type != TensorProto.INT8 or self._missing(tensor):
            return None
        if tensor.data_location != TensorProto.EXTERNAL:
            values = self.array(tensor)
            return None if values is None or not values.size else int(np.abs(values.astype(np.int16)).max())
        return max((int(np.abs(piece.astype(np.int16)).max()) for piece in self._pieces(tensor)), default=None)

    def _stored(self, tensor: TensorProto) -> TensorProto:
        stand_in = any(entry.value == OUTLINE for entry in tensor.external_data)
        return self.stored.get(tensor.name, tensor) if stand_in else tensor

    def _missing(self, tensor: TensorProto) -> bool:
        return tensor.data_location == TensorProto.EXTERNAL and (self.folder is None or tensor.name in self._unsafe)

    def whole(self, tensor: TensorProto) -> TensorProto | None:
        """A tensor with its bytes inside; None when they are missing or unsafe."""
        tensor = self._stored(tensor)
        if tensor.data_location != TensorProto.EXTERNAL:
            return tensor
        if self._missing(tensor):
            return None
        data = b"".join(piece.tobytes() for piece in self._pieces(tensor))
        return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=data)

    def _pieces(self, tensor: TensorProto) -> Iterator[NDArray[np.int8]]:
        assert self.folder is not None
        span = self.folder.span(described(tensor))
        with open(span.file, "rb") as file:
            file.seek(span.offset)
            for left in range(span.length, 0, -CHUNK):
                if data := file.read(min(CHUNK, left)):
                    yield np.frombuffer(data, np.int8)
