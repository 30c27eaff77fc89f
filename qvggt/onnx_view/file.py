"""Opening an ONNX file, with every file it names checked before any runtime follows those names."""

from __future__ import annotations

from pathlib import Path

import onnx

from qvggt.errors import QvggtError
from qvggt.files import check_file, line, reason, sniff
from qvggt.onnx_view.external_data import EXPORT_AGAIN
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.halves import Half, heads_path
from qvggt.onnx_view.metadata import Metadata


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


def open_heads(trunk: Metadata, path: Path | None = None, strict: bool = True) -> Model:
    """The dense heads of a trunk, by default beside it, opened as `open_onnx` does. QvggtError for a file that is
    missing, or of another export."""
    assert trunk.path is not None
    path, again = path or heads_path(trunk.path), "export the two again, and keep them together"
    if not path.is_file():
        raise QvggtError(f"{trunk.path}: is a trunk, whose dense heads {path.name} are not beside it; {again}")
    heads = open_onnx(path, strict)
    if heads.metadata.half is not Half.HEADS:
        raise QvggtError(f"{path}: does not hold the dense heads of {trunk.path.name}; {again}")
    mine, theirs = (str(metadata.text("pair"))[:12] for metadata in (trunk, heads.metadata))
    if mine != theirs:
        raise QvggtError(f"{path}: belongs to export {theirs}, {trunk.path.name} to {mine}; {again}")
    return heads


def network_files(path: str | Path) -> tuple[Path, ...]:
    """A file, and after a trunk its heads; their external data may be faulty. QvggtError as `open_heads`."""
    opened = open_onnx(path, strict=False)
    if opened.metadata.half is not Half.TRUNK:
        return (Path(path),)
    open_heads(opened.metadata, strict=False)
    return Path(path), heads_path(path)
