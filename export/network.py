"""The whole network as one ONNX graph with a symbolic frame count at a fixed image size."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from qvggt.errors import QvggtError
from qvggt.export.graph import GraphBuilder
from qvggt.models.family import Head, check_size, family_of
from qvggt.models.network import Network
from qvggt.predictions import TRAILING
from qvggt.target import Target

FRAMES = "frames"  # the symbolic dimension
EMITTERS = {"vggt": "qvggt.export.vggt.network"}  # family -> module with its `emit_heads`
EmitHeads = Callable[[GraphBuilder, Network, str, tuple[int, int], list[Head], Target], None]


def emit_network(
    builder: GraphBuilder, model: Network, height: int, width: int, outputs: tuple[str, ...], target: Target
) -> None:
    """Emit `images` float32 [1, frames, 3, H, W] in [0, 1] -> the chosen outputs, names and shapes as the network's.

    outputs: the family's words for its heads, e.g. pose, depth, points. Walks the actual modules, so quantized linears
    and folded layers show up as they are. QvggtError for a bad size or a head the model lacks.
    """
    check_size(height, width, model.config.patch_size)
    family = family_of(model)
    heads = family.exportable
    for output in outputs:
        if output not in heads:
            raise QvggtError(f"unknown output {output!r}: expected a subset of {', '.join(heads)}")
        if heads[output].name not in model.config.heads:
            raise QvggtError(f"output {output!r} needs the {heads[output].name} head, which this model lacks")
    if not outputs:
        raise QvggtError(f"no output chosen: expected a subset of {', '.join(heads)}")
    images = builder.input("images", [1, FRAMES, 3, height, width])
    images = builder.reshape(images, (-1, 3, height, width), "images")
    emit_heads: EmitHeads = import_module(EMITTERS[family.name]).emit_heads
    chosen = [head for word, head in heads.items() if word in outputs]
    emit_heads(builder, model, images, (height, width), chosen, target)


def emit_output(builder: GraphBuilder, value: str, name: str, size: tuple[int, int], path: str) -> None:
    """`value` [frames, ...] as the graph's output `name` [1, frames, ...], its shape as `qvggt.predictions` says."""
    sides = {"H": size[0], "W": size[1]}
    shape = [int(sides.get(str(side), side)) for side in TRAILING[name]]
    builder.output(builder.reshape(value, (1, -1, *shape), path), name, [1, FRAMES, *shape])
