"""A network as ONNX with a symbolic frame count at a fixed image size: one graph, or its trunk and its dense heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from qvggt.errors import QvggtError
from qvggt.export.graph import GraphBuilder
from qvggt.export.precision import Precision
from qvggt.models.dpt import DPTHead
from qvggt.models.family import Head, check_size, family_of
from qvggt.models.network import Network
from qvggt.onnx_view.halves import Half, level_name
from qvggt.predictions import TRAILING
from qvggt.target import Target

FRAMES = "frames"  # the symbolic dimension
EMITTERS = {"vggt": "qvggt.export.vggt.network"}  # family -> module with its `emit_levels` and `emit_head`
Levels = Mapping[Any, str]  # what heads read, as their family has it; of dense heads {layer: [S, P, C]}
EmitLevels = Callable[[GraphBuilder, Network, str, tuple[int, int], list[Head], Target], Levels]
EmitHead = Callable[[GraphBuilder, Network, Head, Levels, tuple[int, int], Target], None]


def emit_network(
    builder: GraphBuilder,
    model: Network,
    height: int,
    width: int,
    outputs: tuple[str, ...],
    target: Target,
    half: Half | None = None,
) -> None:
    """Emit `images` float32 [1, frames, 3, H, W] in [0, 1] -> the chosen outputs, names and shapes as the network's.

    outputs: the family's words for its heads, e.g. pose, depth, points. Walks the actual modules, so quantized linears
    and folded layers show up as they are. half: the trunk returns the tokens [1, frames, P, C] that dense heads read
    instead of what they compute, the graph of the heads takes them; fp16 in an fp16 network, else fp32. QvggtError for
    a bad size, a head the model lacks, and halves of a network without dense heads.
    """
    size = height, width
    check_size(height, width, model.config.patch_size)
    chosen, dense = _chosen(model, outputs), dense_heads(model, outputs)
    if half is not None and not dense:
        raise QvggtError(f"--split-heads: {', '.join(outputs)} has no dense head to split off; leave it out")
    emitter = import_module(EMITTERS[family_of(model).name])
    emit_levels: EmitLevels = emitter.emit_levels
    emit_head: EmitHead = emitter.emit_head
    tokens = family_of(model).tokens(model.config, height, width)
    shapes = {k: (tokens, *m.norm.normalized_shape) for m in dense.values() for k in sorted(m.layers)}
    floats = builder.precision if builder.precision is Precision.FP16 else Precision.FP32
    levels: Levels
    if half is Half.HEADS:
        inputs = {k: builder.input(level_name(k), [1, FRAMES, *shape], floats) for k, shape in shapes.items()}
        levels = {k: builder.reshape(x, (-1, *shapes[k]), x) for k, x in inputs.items()}
    else:
        images = builder.reshape(builder.input("images", [1, FRAMES, 3, *size]), (-1, 3, *size), "images")
        levels = emit_levels(builder, model, images, size, chosen, target)
    for head in chosen:
        if half is None or (head in dense) == (half is Half.HEADS):
            emit_head(builder, model, head, levels, size, target)
    if half is Half.TRUNK:
        for k, shape in shapes.items():
            kept = builder.reshape(levels[k], (1, -1, *shape), level_name(k))
            builder.output(kept, level_name(k), [1, FRAMES, *shape], floats)


def dense_heads(model: Network, outputs: tuple[str, ...]) -> dict[Head, DPTHead]:
    """Those heads of the chosen outputs that look at each frame alone. QvggtError for a word that names no head."""
    modules = {head: model.get_submodule(head.path) for head in _chosen(model, outputs)}
    return {head: module for head, module in modules.items() if isinstance(module, DPTHead)}


def _chosen(model: Network, outputs: tuple[str, ...]) -> list[Head]:
    """The heads that compute the outputs; QvggtError for a word that names none."""
    heads = family_of(model).exportable
    for output in outputs:
        if output not in heads:
            raise QvggtError(f"unknown output {output!r}: expected a subset of {', '.join(heads)}")
        if heads[output].name not in model.config.heads:
            raise QvggtError(f"output {output!r} needs the {heads[output].name} head, which this model lacks")
    if not outputs:
        raise QvggtError(f"no output chosen: expected a subset of {', '.join(heads)}")
    return [head for word, head in heads.items() if word in outputs]


def emit_output(builder: GraphBuilder, value: str, name: str, size: tuple[int, int], path: str) -> None:
    """`value` [frames, ...] as the graph's output `name` [1, frames, ...], its shape as `qvggt.predictions` says."""
    sides = {"H": size[0], "W": size[1]}
    shape = [int(sides.get(str(side), side)) for side in TRAILING[name]]
    builder.output(builder.reshape(value, (1, -1, *shape), path), name, [1, FRAMES, *shape])
