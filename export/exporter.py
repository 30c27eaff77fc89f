"""Model -> checked ONNX file: storage, metadata, structural checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import NodeProto
from torch import Tensor

from qvggt import __version__
from qvggt.errors import QvggtError
from qvggt.export.graph import GraphBuilder
from qvggt.export.network import dense_heads, emit_network
from qvggt.export.precision import Precision, check_fused, check_quantized
from qvggt.export.storage import EXTERNAL_ABOVE, model_files
from qvggt.models.family import find_family
from qvggt.models.network import Network
from qvggt.onnx_view.halves import Half, group_profile, heads_path
from qvggt.onnx_view.metadata import module_path, written
from qvggt.predictions import SEMANTICS
from qvggt.quant.attention import quantized_attentions
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
    split_heads: bool = False  # dense heads in a file of their own, see qvggt.onnx_view.halves
    external_above: int = EXTERNAL_ABOVE  # bytes of weights above which they go into <name>.data
    storage: str | None = None  # "int4" or "int8": of the 4-bit weights of integer products


@dataclass(frozen=True)
class Exported:
    """Files that were written, the model first, and their size in bytes altogether. data: its external weights; heads:
    the second half of a network in two files."""

    path: Path
    data: Path | None
    bytes: int
    heads: Path | None = None


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
    if any(quantized_attentions(model)):
        check_quantized(config.target.words[0], config.precision, config.fused_attention)
    path = Path(path)
    paths: dict[Half | None, Path] = {None: path}
    if config.split_heads:
        paths = {Half.TRUNK: path, Half.HEADS: heads_path(path)}
    external = {half: _bytes(model, config, half) > config.external_above for half in paths}
    facts = _metadata(model, scheme, config, source or {})
    if config.split_heads:
        facts["pair"] = _pair(model, config, facts)
    with ExitStack() as stack:  # a trunk comes into its place after its heads, and neither without the other
        slots = {half: stack.enter_context(model_files(place, external[half])) for half, place in paths.items()}
        for half, (storage, temporary) in slots.items():
            builder = GraphBuilder(
                storage, config.precision, config.fused_attention, config.target.stores_int8(config.storage)
            )
            emit_network(builder, model, config.height, config.width, config.outputs, config.target, half)
            proto = builder.model(
                model.config.family, written(**facts | _of_file(facts, half, builder.nodes)), __version__
            )
            temporary.write_bytes(proto.SerializeToString())
            if storage.data is not None:
                storage.data.flush()
            check_file(temporary)
    data = {half: place.with_name(place.name + ".data") for half, place in paths.items() if external[half]}
    size = sum(file.stat().st_size for file in (*paths.values(), *data.values()))
    return Exported(
        path, next((file for half, file in data.items() if half is not Half.HEADS), None), size, paths.get(Half.HEADS)
    )


def check_file(path: Path) -> None:
    """onnx.checker with shape inference, external data by name only; QvggtError names the first finding."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise QvggtError(f"{path.name}: not written, it fails onnx.checker: {str(error).splitlines()[0]}") from error


def _metadata(model: Network, scheme: Scheme, config: ExportConfig, source: dict[str, str]) -> dict[str, Any]:
    """What every file of an export says of itself; `linears` of the whole network."""
    formats = {path: module.format for path, module in quantized_linears(model)}
    formats |= {path: module.format for path, module in quantized_convs(model)}
    target, backend = config.target.words
    return {
        "version": __version__,
        "family": model.config.family,
        "config": model.config.to_json(),
        "linears": {path: format.name for path, format in formats.items()},
        "attentions": {path: each.format.name for path, each in quantized_attentions(model)} or None,
        "scheme": settled(model, scheme).to_json(),
        "source": source,
        "size": f"{config.height}x{config.width}",
        "frames": config.frames,
        "outputs": ",".join(config.outputs),
        "target": target,
        "backend": None if config.target is Target.CPU else backend,
        "precision": config.precision.value,
        "attention": "com.microsoft.MultiHeadAttention" if config.fused_attention else None,
        "semantics": SEMANTICS,
    }


def _of_file(facts: Mapping[str, Any], half: Half | None, nodes: Iterable[NodeProto]) -> dict[str, Any]:
    """What one file says otherwise; `nodes` are those it has, as an export may leave out heads."""
    paths = {module_path(node.name) for node in nodes}
    frames = group_profile(facts["frames"]) if half is Half.HEADS else facts["frames"]
    return {
        "linears": {path: name for path, name in facts["linears"].items() if path in paths},
        "frames": ":".join(map(str, frames)),
        "half": None if half is None else half.value,
    }


def _bytes(model: Network, config: ExportConfig, half: Half | None) -> int:
    """Of a half's weights, or of all."""
    heads = _head_weights(model, config) if half is not None else {}
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in model.state_dict().items()}
    return sum(size for name, size in sizes.items() if half is None or (name in heads) == (half is Half.HEADS))


def _head_weights(model: Network, config: ExportConfig) -> dict[str, Tensor]:
    roots = tuple(f"{head.path}." for head in dense_heads(model, config.outputs))
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(roots)}


def _pair(model: Network, config: ExportConfig, facts: Mapping[str, Any]) -> str:
    """SHA-256 that ties two halves: of all that is said of the network and of the weights of its heads, which hold the
    basis that the trunk's tokens are in."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(_head_weights(model, config).items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
