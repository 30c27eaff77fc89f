"""Model -> checked ONNX file: storage, metadata, structural checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto

from qvggt import __version__
from qvggt.errors import QvggtError
from qvggt.export.graph import GraphBuilder
from qvggt.export.network import emit_network
from qvggt.export.precision import Precision, check_fused
from qvggt.export.storage import EXTERNAL_ABOVE, model_files
from qvggt.models.family import find_family
from qvggt.models.network import Network
from qvggt.onnx_view.metadata import module_path, written
from qvggt.predictions import SEMANTICS
from qvggt.quant.model import quantized_convs, quantized_linears, settled
from qvggt.quant.scheme import Scheme
from qvggt.target import Target


@dataclass(frozen=True)
class ExportConfig:
    """What to export. `frames` (min, opt, max) is a profile for engine builders; the file takes any count."""

    height: int
    width: int
    outputs: tuple[str, ...] = tuple(find_family().exportable)
    frames: tuple[int, int, int] = (1, 8, 32)
    target: Target = Target.CPU
    precision: Precision = Precision.FP32  # of everything that is not quantized; see qvggt.export.precision
    fused_attention: bool = (
        False  # cpu in fp32 only: one operator of com.microsoft, which ONNX Runtime and OpenVINO know
    )
    external_above: int = EXTERNAL_ABOVE  # bytes of weights above which they go into <name>.data
    storage: str | None = None  # "int4" or "int8": of the 4-bit weights of integer products

    @property
    def int8_storage(self) -> bool:
        """By default for TensorRT itself, whose documents speak of INT4 under floating-point activations only."""
        return self.storage == "int8" or (self.storage is None and self.target is Target.TENSORRT_10)


@dataclass(frozen=True)
class Exported:
    """Files that were written and their size in bytes."""

    path: Path
    data: Path | None
    bytes: int


def export_onnx(
    model: Network, scheme: Scheme, config: ExportConfig, path: str | Path, source: dict[str, str] | None = None
) -> Exported:
    """Write `model` (fake-quant or float, CPU, fp32) as ONNX; atomic, passes onnx.checker with shape inference.

    `source` ({"name", "sha256"}) goes into the metadata. QvggtError for a size, output or place that cannot be.
    """
    if scheme.float_type not in ("fp32", config.precision.value):
        raise QvggtError(f"--bits {scheme.bits}: expected --precision {scheme.bits}, got {config.precision.value}")
    if config.fused_attention:
        check_fused(config.target.words[0], config.precision)
    target_path = Path(path)
    state = model.state_dict()
    external = sum(t.numel() * t.element_size() for t in state.values()) > config.external_above
    with model_files(target_path, external) as (storage, temporary):
        builder = GraphBuilder(storage, config.precision, config.fused_attention, config.int8_storage)
        emit_network(builder, model, config.height, config.width, config.outputs, config.target)
        metadata = _metadata(model, scheme, config, source or {}, builder.nodes)
        proto = builder.model(model.config.family, metadata, __version__)
        temporary.write_bytes(proto.SerializeToString())
        if storage.data is not None:
            storage.data.flush()
        check_file(temporary)
    data = target_path.with_name(target_path.name + ".data") if external else None
    size = sum(p.stat().st_size for p in (target_path, data) if p is not None)
    return Exported(target_path, data, size)


def check_file(path: Path) -> None:
    """onnx.checker with shape inference, external data by name only; QvggtError names the first finding."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise QvggtError(f"{path.name}: not written, it fails onnx.checker: {str(error).splitlines()[0]}") from error


def _metadata(
    model: Network, scheme: Scheme, config: ExportConfig, source: dict[str, str], nodes: Iterable[NodeProto]
) -> dict[str, str]:
    """What the file says of itself; `nodes` are those it has, as an export may leave out heads."""
    written_paths = {module_path(node.name) for node in nodes}
    formats = {path: module.format for path, module in quantized_linears(model)}
    formats |= {path: module.format for path, module in quantized_convs(model)}
    target, backend = config.target.words
    return written(
        version=__version__,
        family=model.config.family,
        config=model.config.to_json(),
        linears={path: format.name for path, format in formats.items() if path in written_paths},
        scheme=settled(model, scheme).to_json(),
        source=source,
        size=f"{config.height}x{config.width}",
        frames=":".join(str(f) for f in config.frames),
        outputs=",".join(config.outputs),
        target=target,
        backend=None if config.target is Target.CPU else backend,
        precision=config.precision.value,
        attention="com.microsoft.MultiHeadAttention" if config.fused_attention else None,
        semantics=SEMANTICS,
    )
