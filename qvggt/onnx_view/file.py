"""Opening an ONNX file, with every file it names checked before any runtime follows those names."""

from __future__ import annotations

from pathlib import Path

import onnx

from qvggt.errors import QvggtError
from qvggt.files import check_file, line, reason, sniff
from qvggt.onnx_view.external_data import EXPORT_AGAIN
from qvggt.onnx_view.graph import Model


def open_onnx(path: str | Path, strict: bool = True) -> Model:
    """Parse a model, its large tensors not loaded; QvggtError for a missing, corrupt or truncated file.

    So is one whose external data is missing, truncated or leads out of its folder; without `strict` these are the
    `values.faults` of the result, and the tensors concerned have no value.
    """
    path = Path(path)
    check_file(path, "an ONNX file")
    try:
        if impostor := sniff(path):
            raise QvggtError(f"{path}: {impostor.replace('weights', 'an ONNX file')}")
        proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    except QvggtError:
        raise
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); check it, or get it again") from error
    except Exception as error:  # protobuf's DecodeError has moved between its versions
        raise QvggtError(f"{path}: truncated or corrupt ONNX ({line(error)}); {EXPORT_AGAIN}") from error
    if not proto.graph.node:  # a few stray bytes parse as an empty message
        raise QvggtError(f"{path}: holds no ONNX graph; {EXPORT_AGAIN}")
    model = Model(proto, path)
    if strict and model.values.faults:
        raise model.values.faults[0][1]
    return model
